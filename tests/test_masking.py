"""Masks: how many, where, and never where nothing was measured."""

import numpy as np
import pytest
from building import MODALITIES
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_patch.config.schema import ModalityCrossRandomMasking, RandomMasking
from hybrid_patch.masking import Mask, coarse_presence, draw

RATIOS = st.tuples(st.floats(0.05, 1), st.floats(0, 1)).map(lambda r: (r[0], min(r[1], 1 - r[0])))


def presence(share: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        name: rng.random((4, 3, 2, 2 if m.temporal else 1, len(m.band_sets))) < share for name, m in MODALITIES.items()
    }


@settings(max_examples=60)
@given(ratios=RATIOS, share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_random_masking_keeps_its_ratios_in_every_sample(ratios: tuple[float, float], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = presence(share, rng)
    config = RandomMasking(name="random", encode_ratio=ratios[0], decode_ratio=ratios[1], views=1)
    masks = draw(config, MODALITIES, present, rng)
    for name, mask in masks.items():
        assert ((mask == Mask.MISSING) == ~present[name]).all()
        for there, values in zip(present[name], mask, strict=True):
            count = there.sum()
            encoded = 0 if MODALITIES[name].decode_only else max(np.rint(ratios[0] * count), min(count, 1))
            assert (values == Mask.ENCODE).sum() == encoded
            assert (values == Mask.DECODE).sum() == min(np.rint(ratios[1] * count), count - encoded)


@settings(max_examples=60)
@given(ratios=RATIOS, share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_cross_masking_leaves_something_to_see_and_to_predict(
    ratios: tuple[float, float], share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    present = presence(share, rng)
    random = RandomMasking(name="random", encode_ratio=ratios[0], decode_ratio=ratios[1], views=1)
    cross = ModalityCrossRandomMasking(
        name="modality_cross_random", encode_ratio=ratios[0], decode_ratio=ratios[1], views=1
    )
    before = draw(random, MODALITIES, present, np.random.default_rng(seed))
    masks = draw(cross, MODALITIES, present, np.random.default_rng(seed))
    for value in (Mask.ENCODE, Mask.DECODE):
        for sample in range(4):
            some = {
                when: sum((m[sample] == value).sum() for m in drawn.values())
                for when, drawn in (("before", before), ("after", masks))
            }
            assert (some["before"] > 0) == (some["after"] > 0)
    for name, mask in masks.items():
        changed = mask != before[name]
        assert (mask[changed] == Mask.TARGET_ONLY).all()
        if MODALITIES[name].decode_only:
            assert not (mask == Mask.ENCODE).any()


def test_masks_are_uniform_over_positions() -> None:
    rng = np.random.default_rng(0)
    present = {"optical": np.ones((2000, 2, 2, 2, 2), bool)}
    config = RandomMasking(name="random", encode_ratio=0.25, decode_ratio=0.5, views=1)
    mask = draw(config, MODALITIES, present, rng)["optical"]
    assert np.abs((mask == Mask.ENCODE).mean(0) - 0.25).max() < 0.05
    assert np.abs((mask == Mask.DECODE).mean(0) - 0.5).max() < 0.05


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_a_patch_is_present_if_one_of_its_pixels_is(patch_size: int) -> None:
    valid = np.zeros((1, 8, 8, 1), bool)
    valid[0, 5, 2, 0] = True
    present = coarse_presence(valid, patch_size, 3)
    assert present.shape == (1, 8 // patch_size, 8 // patch_size, 1, 3)
    assert present.sum() == 3
    assert present[0, 5 // patch_size, 2 // patch_size].all()
