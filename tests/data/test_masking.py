"""Masks: how many, where, and never where nothing was measured."""

import dataclasses
import math

import numpy as np
import pytest
from building import MODALITIES
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_patch.config.masking_options import Masking
from hybrid_patch.data.masking import Mask, coarse_presence, draw_masks, expected_tokens, widest_sample

RATIOS = st.tuples(st.floats(0.05, 1), st.floats(0, 1)).map(lambda r: (r[0], min(r[1], 1 - r[0])))


def random_presence(share: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        name: rng.random((4, 3, 2, 2 if m.temporal else 1, len(m.band_sets))) < share for name, m in MODALITIES.items()
    }


@settings(max_examples=60)
@given(ratios=RATIOS, share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_random_masking_keeps_its_ratios_in_every_sample(ratios: tuple[float, float], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    presence = random_presence(share, rng)
    config = Masking(name="random", encode_ratio=ratios[0], decode_ratio=ratios[1], views=1, band_dropout={})
    masks = draw_masks(config, MODALITIES, presence, rng)
    for name, mask in masks.items():
        assert ((mask == Mask.MISSING) == ~presence[name]).all()
        for token_mask, values in zip(presence[name], mask, strict=True):
            count = token_mask.sum()
            encoded = 0 if MODALITIES[name].decode_only else max(np.rint(ratios[0] * count), min(count, 1))
            assert (values == Mask.ENCODE).sum() == encoded
            assert (values == Mask.DECODE).sum() == min(np.rint(ratios[1] * count), count - encoded)


@settings(max_examples=60)
@given(ratios=RATIOS, share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_cross_masking_leaves_something_to_see_and_to_predict(
    ratios: tuple[float, float], share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    presence = random_presence(share, rng)
    random = Masking(name="random", encode_ratio=ratios[0], decode_ratio=ratios[1], views=1, band_dropout={})
    cross = Masking(
        name="modality_cross_random", encode_ratio=ratios[0], decode_ratio=ratios[1], views=1, band_dropout={}
    )
    before = draw_masks(random, MODALITIES, presence, np.random.default_rng(seed))
    masks = draw_masks(cross, MODALITIES, presence, np.random.default_rng(seed))
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
    presence = {"optical": np.ones((2000, 2, 2, 2, 2), bool)}
    config = Masking(name="random", encode_ratio=0.25, decode_ratio=0.5, views=1, band_dropout={})
    mask = draw_masks(config, MODALITIES, presence, rng)["optical"]
    assert np.abs((mask == Mask.ENCODE).mean(0) - 0.25).max() < 0.05
    assert np.abs((mask == Mask.DECODE).mean(0) - 0.5).max() < 0.05


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_a_patch_is_present_if_one_of_its_pixels_is(patch_size: int) -> None:
    valid = np.zeros((1, 8, 8, 1), bool)
    valid[0, 5, 2, 0] = True
    presence = coarse_presence(valid, patch_size, 3)
    assert presence.shape == (1, 8 // patch_size, 8 // patch_size, 1, 3)
    assert presence.sum() == 3
    assert presence[0, 5 // patch_size, 2 // patch_size].all()


def jointly_drawn(masks: list[np.ndarray], presence: list[np.ndarray], axes: tuple[int, ...]) -> None:
    """Tokens that differ in these axes alone have one value, but for those that are missing."""
    for value in (Mask.ENCODE, Mask.DECODE):
        some = [((mask == value) & token_mask).any(axis=axes) for mask, token_mask in zip(masks, presence, strict=True)]
        whole = [
            ((mask == value) | ~token_mask).all(axis=axes) for mask, token_mask in zip(masks, presence, strict=True)
        ]
        anywhere = np.logical_or.reduce(some)
        for each in whole:
            assert each[anywhere].all()


@settings(max_examples=60)
@given(ratios=RATIOS, share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_space_masking_hides_places_with_all_that_is_there(
    ratios: tuple[float, float], share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    presence = random_presence(share, rng)
    config = Masking(name="space", encode_ratio=ratios[0], decode_ratio=ratios[1], views=1, band_dropout={})
    masks = draw_masks(config, MODALITIES, presence, rng)
    inputs = [name for name, m in MODALITIES.items() if not m.decode_only]
    jointly_drawn([masks[name] for name in inputs], [presence[name] for name in inputs], (3, 4))
    token_mask = np.logical_or.reduce([presence[name].any((3, 4)) for name in inputs])
    for name, mask in masks.items():
        assert ((mask == Mask.MISSING) == ~presence[name]).all()
        assert np.isin(mask[~token_mask], (Mask.TARGET_ONLY, Mask.MISSING)).all()
    encoded = np.logical_or.reduce([(masks[name] == Mask.ENCODE).any((3, 4)) for name in inputs])
    count = token_mask.sum((1, 2))
    assert (encoded.sum((1, 2)) == np.maximum(np.rint(ratios[0] * count), np.minimum(count, 1))).all()
    hidden = {name: (mask == Mask.DECODE).any((3, 4)) for name, mask in masks.items()}
    assert not any((hidden[name] & encoded).any() for name in masks)
    assert not (masks["cover"] == Mask.ENCODE).any()


@settings(max_examples=60)
@given(ratios=RATIOS, share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_time_masking_hides_whole_timesteps_of_series(ratios: tuple[float, float], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    radar = MODALITIES["optical"]
    modalities = {**MODALITIES, "radar": radar}
    presence = random_presence(share, rng) | {"radar": rng.random((4, 3, 2, 2, 2)) < share}
    config = Masking(name="time", encode_ratio=ratios[0], decode_ratio=ratios[1], views=1, band_dropout={})
    masks = draw_masks(config, modalities, presence, rng)
    assert list(masks) == list(presence)
    for name, mask in masks.items():
        assert ((mask == Mask.MISSING) == ~presence[name]).all()
    series = ["optical", "radar"]
    jointly_drawn([masks[name] for name in series], [presence[name] for name in series], (1, 2, 4))
    static = masks["height"]
    for token_mask, values in zip(presence["height"], static, strict=True):
        count = token_mask.sum()
        assert (values == Mask.ENCODE).sum() == max(np.rint(ratios[0] * count), min(count, 1))


def test_time_masking_of_a_series_that_is_only_predicted() -> None:
    target = dataclasses.replace(MODALITIES["optical"], decode_only=True)
    presence = {"optical": np.ones((1, 3, 2, 4, 2), bool)}
    config = Masking(name="time", encode_ratio=0.5, decode_ratio=0.5, views=1, band_dropout={})
    mask = draw_masks(config, {"optical": target}, presence, np.random.default_rng(0))["optical"]
    assert (mask == Mask.DECODE).any((1, 2, 4)).sum() == (mask == Mask.DECODE).all((1, 2, 4)).sum() == 2
    assert not (mask == Mask.ENCODE).any()


def maskings(encode: float, decode: float) -> list[Masking]:
    return [
        Masking(name=name, encode_ratio=encode, decode_ratio=decode, views=1, band_dropout={})
        for name in ("random", "space", "time")
    ]


@settings(max_examples=60)
@given(ratios=RATIOS, kind=st.integers(0, 2), t=st.integers(1, 4))
def test_the_usual_number_of_tokens_is_that_where_nothing_is_missing(
    ratios: tuple[float, float], kind: int, t: int
) -> None:
    config = maskings(*ratios)[kind]
    modality = MODALITIES["optical"]
    masks = draw_masks(
        config, {"optical": modality}, {"optical": np.ones((1, 3, 2, t, 2), bool)}, np.random.default_rng(0)
    )
    for value in (Mask.ENCODE, Mask.DECODE):
        assert expected_tokens(config, modality, (3, 2, t, 2), value) == (masks["optical"] == value).sum()


SERIES = {**MODALITIES, "radar": MODALITIES["optical"]}


def time_with_decode(encode: float, decode: float) -> Masking:
    return Masking(name="random_time_with_decode", encode_ratio=encode, decode_ratio=decode, views=1, band_dropout={})


@settings(max_examples=60)
@given(ratios=RATIOS, share=st.floats(0, 1), seed=st.integers(0, 10**6), t=st.integers(1, 5))
def test_pairs_are_encoded_or_decoded_by_tokens_or_by_timesteps(
    ratios: tuple[float, float], share: float, seed: int, t: int
) -> None:
    rng = np.random.default_rng(seed)
    presence = {
        name: rng.random((4, 3, 2, t if m.temporal else 1, len(m.band_sets))) < share for name, m in SERIES.items()
    }
    config = time_with_decode(*ratios)
    masks = draw_masks(config, SERIES, presence, rng)
    assert list(masks) == list(presence)
    for name, mask in masks.items():
        assert ((mask == Mask.MISSING) == ~presence[name]).all()
    assert ((masks["cover"] == Mask.DECODE) == presence["cover"]).all()
    inputs = [name for name, m in SERIES.items() if not m.decode_only]
    for sample in range(4):
        pairs = [
            (name, masks[name][sample, ..., s], presence[name][sample, ..., s])
            for name in inputs
            for s in range(masks[name].shape[-1])
            if presence[name][sample, ..., s].any()
        ]
        if len(pairs) < 2:
            continue
        encoded = [(tokens == Mask.ENCODE).any() for _, tokens, _ in pairs]
        assert sum(encoded) == math.ceil(ratios[0] * len(pairs))
        whole_timesteps = dict[str, set[int]](ENCODE=set(), DECODE=set())
        for (name, tokens, valid_mask), is_encoded in zip(pairs, encoded, strict=True):
            value = Mask.ENCODE if is_encoded else Mask.DECODE
            chosen, count = tokens == value, valid_mask.sum()
            assert np.isin(tokens[valid_mask], (value, Mask.TARGET_ONLY)).all()
            at_random = max(np.rint(ratios[0] * count), 1) if is_encoded else np.rint(ratios[1] * count)
            by_time = (chosen | ~valid_mask | ~chosen.any((0, 1))).all()  # whole timesteps or nothing of them
            assert chosen.sum() == at_random or (by_time and SERIES[name].temporal and t > 1)
            if chosen.sum() != at_random:
                whole_timesteps[value.name] |= set(np.flatnonzero(chosen.any((0, 1))).tolist())
        assert not whole_timesteps["ENCODE"] & whole_timesteps["DECODE"]


def test_half_of_the_samples_are_masked_by_timesteps() -> None:
    presence = {"optical": np.ones((1000, 3, 3, 4, 2), bool), "cover": np.ones((1000, 3, 3, 1, 1), bool)}
    masks = draw_masks(time_with_decode(0.5, 0.5), SERIES, presence, np.random.default_rng(0))
    chosen = [masks["optical"] == value for value in (Mask.ENCODE, Mask.DECODE)]
    whole = [(tokens.all((1, 2)) == tokens.any((1, 2))).all((1, 2)) for tokens in chosen]
    assert (whole[0] == whole[1]).all()
    assert whole[0].mean() == pytest.approx(0.5, abs=0.05)
    for mask in (masks["optical"][whole[0]], masks["optical"][~whole[0]]):  # 18 of 36 tokens of a band set, either way
        for value in (Mask.ENCODE, Mask.DECODE):
            assert ((mask == value).sum((1, 2, 3)).max(-1) == 18).all()
            assert ((mask == value).sum((1, 2, 3)).min(-1) == 0).all()


def test_a_single_pair_is_encoded_and_decoded() -> None:
    presence = {"height": np.ones((5, 4, 5, 1, 1), bool)}
    mask = draw_masks(time_with_decode(0.25, 0.5), SERIES, presence, np.random.default_rng(0))["height"]
    assert ((mask == Mask.ENCODE).sum((1, 2, 3, 4)) == 5).all()
    assert ((mask == Mask.DECODE).sum((1, 2, 3, 4)) == 10).all()


@pytest.mark.sample(3)
@pytest.mark.parametrize("names", [["optical", "height", "cover"], ["optical", "height", "radar"], ["height"]])
@pytest.mark.parametrize("ratios", [(0.5, 0.5), (0.3, 0.6), (0.7, 0.1)])
def test_the_widest_of_many_samples(names: list[str], ratios: tuple[float, float]) -> None:
    modalities = {name: SERIES[name] for name in names}
    grids = {name: (2, 3, 3 if m.temporal else 1, len(m.band_sets)) for name, m in modalities.items()}
    presence = {name: np.ones((500, *grid), bool) for name, grid in grids.items()}
    for name in ("random_time_with_decode", "random"):
        config = dataclasses.replace(time_with_decode(*ratios), name=name)
        masks = draw_masks(config, modalities, presence, np.random.default_rng(0))
        for value in (Mask.ENCODE, Mask.DECODE):
            together, each = widest_sample(config, modalities, grids, value)
            counts = {n: (mask == value).sum((1, 2, 3, 4)) for n, mask in masks.items()}
            assert together == np.sum(list(counts.values()), axis=0).max()
            assert each == {n: x.max() for n, x in counts.items() if value == Mask.DECODE or n != "cover"}
            for n, grid in grids.items():
                if n in each:
                    assert each[n] <= expected_tokens(config, modalities[n], grid, value)
