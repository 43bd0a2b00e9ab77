"""Moments against NumPy, and what is drawn to estimate them."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Int

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.source import BrokenSampleError, Sample, Window
from hybrid_patch.data.statistics import WINDOWS, Moments, fit
from hybrid_patch.errors import InputError

Array = np.ndarray

OPTICAL = Modality(bands=("a", "b"), band_sets=(("a", "b"),), temporal=True, gsd=10.0)
KNOWN = Modality(bands=("h",), band_sets=(("h",),), temporal=False, gsd=10.0, mean=(1.0,), std=(2.0,))
SHAPE = (20, 24, 3)
SAMPLES = np.arange(10)


class Scenes:
    """A source of random images with gaps, and a record of what was asked for."""

    modalities: Mapping[str, Modality] = {"optical": OPTICAL}

    def class_names(self) -> tuple[str, ...]:
        return ()

    def __init__(self, broken: tuple[int, ...] = (), valid_share: float = 0.7, samples: Array = SAMPLES) -> None:
        rng = np.random.default_rng(1)
        self.images = rng.normal((500, -3), (20, 0.5), (len(SAMPLES), *SHAPE, 2)).astype(np.float32)
        self.valid = rng.random((len(SAMPLES), *SHAPE)) < valid_share
        self.images[~self.valid] = np.nan
        self.broken, self.samples = broken, samples
        self.asked: list[tuple[int, Window]] = []

    def indices(self, split: str) -> Array:
        return self.samples

    def group(self, index: int) -> int:
        return index

    def name(self, index: int) -> str:
        return f"scene {index}"

    def shape(self, index: int) -> tuple[int, int, int]:
        return SHAPE

    def read(self, index: int, window: Window, timesteps: Int[Array, " t"], labels: bool = True) -> Sample:
        self.asked.append((index, window))
        if index in self.broken:
            raise BrokenSampleError(f"scene {index}")
        area = (index, slice(window.top, window.top + window.height), slice(window.left, window.left + window.width))
        return Sample(
            {"optical": self.images[area][:, :, timesteps]},
            {"optical": self.valid[area][:, :, timesteps]},
            np.zeros((len(timesteps), 3), np.int64),
        )


def fitted(scenes: Scenes, tile: int = 32) -> Modality:
    return fit(scenes, tile)["optical"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.floats(-1e6, 1e6), st.floats(0.1, 1e3))
@settings(deadline=None)
def test_merged_moments_are_those_of_all_values(sizes: list[int], centre: float, spread: float) -> None:
    rng = np.random.default_rng(sum(sizes))
    parts = [rng.normal(centre, spread, (size, 3)) for size in sizes]
    merged = Moments.of(np.zeros((0, 3)))
    for part in parts:
        merged = merged.merged(Moments.of(part))
    everything = np.concatenate(parts)
    assert merged.count == len(everything)
    if len(everything):
        np.testing.assert_allclose(merged.mean, everything.mean(0), rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(merged.std, everything.std(0), rtol=1e-6, atol=1e-9)


def test_whole_scenes_give_the_moments_of_their_valid_pixels() -> None:
    """With windows as large as the scenes, and each drawn once, nothing is left to chance."""
    many = np.resize(SAMPLES, WINDOWS // len(SAMPLES) * len(SAMPLES))  # Each as often as any other.
    scenes = Scenes(samples=many)
    estimate = fitted(scenes)
    values = scenes.images[scenes.valid].astype(np.float64)
    assert estimate.mean is not None
    assert estimate.std is not None
    # The draw repeats some scenes once more than others to fill its number: the tolerance is for those.
    np.testing.assert_allclose(estimate.mean, values.mean(0), rtol=2e-3)
    np.testing.assert_allclose(estimate.std, values.std(0), rtol=2e-2)


def test_only_training_samples_are_drawn_and_always_the_same() -> None:
    first, second = Scenes(samples=SAMPLES[2:5]), Scenes(samples=SAMPLES[2:5])
    assert fitted(first, tile=8) == fitted(second, tile=8)
    assert first.asked == second.asked
    assert {index for index, _ in first.asked} == {2, 3, 4}
    assert len(first.asked) == WINDOWS
    assert {(window.height, window.width) for _, window in first.asked} == {(8, 8)}


def test_each_sample_is_drawn_once_before_any_is_drawn_again() -> None:
    scenes = Scenes()
    fitted(scenes)
    drawn = [index for index, _ in scenes.asked[: len(SAMPLES)]]
    assert sorted(drawn) == SAMPLES.tolist()


def test_given_statistics_are_kept_and_nothing_is_read_for_them() -> None:
    scenes = Scenes()
    scenes.modalities = {"height": KNOWN}
    assert fit(scenes, 8) == {"height": KNOWN}
    assert scenes.asked == []


def test_broken_samples_are_left_out_unless_all_are() -> None:
    assert fitted(Scenes(broken=(1, 2))).mean is not None
    with pytest.raises(BrokenSampleError, match="scene"):
        fitted(Scenes(broken=tuple(range(10))))


def test_a_modality_without_a_valid_pixel_is_named() -> None:
    with pytest.raises(InputError, match=r"data\.modalities\.optical: no valid pixel"):
        fitted(Scenes(valid_share=0))


def test_a_constant_band_can_be_normalised() -> None:
    scenes = Scenes(valid_share=1)
    scenes.images[..., 1] = 7
    estimate = fitted(scenes)
    assert estimate.mean is not None
    assert estimate.std is not None
    assert (estimate.mean[1], estimate.std[1]) == (7, 1)
