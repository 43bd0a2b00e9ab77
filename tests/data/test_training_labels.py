"""Which labels a fine-tuning learns from: shares that are drawn by the seed, and parts of each other."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from building import TINY

from hybrid_patch.config.compose import compose
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.crops import read_crop
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import Array, BrokenSampleError, Source, Window, open_source
from hybrid_patch.data.synthetic.source import SyntheticSource
from hybrid_patch.data.training_labels import TrainingLabels, has_label
from hybrid_patch.errors import InputError

FRACTIONS = (0.01, 0.05, 0.2, 1.0)
SUPERVISED = (*TINY, "experiment=finetune")


def labels_of(config: Config, source: Source) -> TrainingLabels:
    assert config.target.name == "labels"
    return TrainingLabels(source, config.target, config.seed)


def drawn(config: Config, index: int = 0) -> Array:
    source = open_source(config.data)
    window, labels = Window(0, 0, 32, 32), labels_of(config, source)
    return has_label(labels.of(read_crop(source, index, window, np.arange(2), 2), index, window))


@pytest.mark.full
def test_a_smaller_share_of_tiles_is_part_of_a_larger_one() -> None:
    def tiles(fraction: float, seed: int) -> set[int]:
        config = compose([*SUPERVISED, "data.scenes=40", f"target.fraction={fraction}", f"seed={seed}"])
        return set(labels_of(config, open_source(config.data)).indices().tolist())

    shares = [tiles(fraction, 0) for fraction in FRACTIONS]
    assert [len(share) for share in shares] == [1, 2, 8, 40]
    assert all(less <= more for less, more in itertools.pairwise(shares))
    assert tiles(0.2, 0) == shares[2] != tiles(0.2, 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_smaller_share_of_pixels_is_part_of_a_larger_one(seed: int) -> None:
    words = [*SUPERVISED, "target.fraction_of=pixels", f"seed={seed}"]
    masks = [drawn(compose([*words, f"target.fraction={fraction}"])) for fraction in FRACTIONS]
    assert all((less <= more).all() for less, more in itertools.pairwise(masks))
    assert 0.1 < masks[2].sum() / masks[3].sum() < 0.3


def test_a_pixel_is_drawn_or_not_in_whichever_crop() -> None:
    config = compose([*SUPERVISED, "target.fraction_of=pixels", "target.fraction=0.3"])
    source, whole = open_source(config.data), drawn(config)
    window, labels = Window(5, 9, 16, 16), labels_of(config, source)
    part = labels.of(read_crop(source, 0, window, np.arange(2), 2), 0, window)
    assert np.array_equal(has_label(part), whole[window.slices])


def test_crops_beyond_the_sample_and_pixels_without_data_have_no_label() -> None:
    config = compose(SUPERVISED)
    source, window = open_source(config.data), Window(24, 24, 16, 16)
    crop = read_crop(source, 0, window, np.arange(2), 2)
    crop.valid["srtm"][:3] = crop.valid["sentinel1"][:3] = crop.valid["sentinel2_l2a"][:3] = False
    mask = has_label(labels_of(config, source).of(crop, 0, window))
    assert mask.shape == (16, 16)
    assert mask[3:8, :8].all()
    assert not mask[8:].any()
    assert not mask[:, 8:].any()
    assert not mask[:3].any()


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_batches_have_the_labels_of_their_crops(kind: str) -> None:
    config = compose([*SUPERVISED, f"data.label_kind={kind}", "target.fraction=0.5"])
    steps = TrainingSteps(open_source(config.data), config, 0, 1)
    assert len(steps.indices) == 2
    first, again = steps[3], steps[3]
    assert isinstance(first, Batch)
    assert isinstance(again, Batch)
    assert first.labels is not None
    assert first.labels.shape == (2, 16, 16)
    assert first.labels.is_floating_point() == (kind == "numbers")
    assert np.array_equal(first.labels, again.labels, equal_nan=True)  # type: ignore[arg-type]


def test_the_crops_of_a_pretraining_are_the_same_as_before_labels_were_read() -> None:
    """The same random numbers make them, whether labels are read or not."""
    words = ([*TINY, "masking=none", "loss=visible", "upsampler=bilinear"], [*SUPERVISED, "upsampler=bilinear"])
    plain, supervised = (TrainingSteps(open_source(config.data), config, 0, 1) for config in map(compose, words))
    a, b = plain[0], supervised[0]
    assert isinstance(a, Batch)
    assert isinstance(b, Batch)
    assert a.labels is None
    assert all(np.array_equal(a.pixels[name], b.pixels[name]) for name in a.pixels)


class Wrong(SyntheticSource):
    """Scenes whose labels are not what they should be."""

    change: dict[str, Any]

    def read(self, *args: Any, **kwargs: Any) -> Any:
        return dataclasses.replace(super().read(*args, **kwargs), **self.change)


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        ({"labels": np.full((16, 16), 77)}, BrokenSampleError, "holds the class 77; there are 10, from 0 on"),
        ({"labels": None}, InputError, "target=labels: synthetic scene 0 of seed 0 has no labels; name them, as by"),
        ({"labels": None, "label": 3}, InputError, "has labels of whole samples, but none of pixels"),
    ],
)
def test_labels_that_cannot_be_learned_are_one_line(change: dict[str, Any], error: type[Exception], line: str) -> None:
    config = compose(SUPERVISED)
    source: Any = Wrong(config.data)  # type: ignore[arg-type]
    source.change = change
    window = Window(0, 0, 16, 16)
    with pytest.raises(error, match=line) as raised:
        labels_of(config, source).of(read_crop(source, 0, window, np.arange(2), 2), 0, window)
    assert "\n" not in str(raised.value)
