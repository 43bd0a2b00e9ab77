"""Crops: windows of samples, normalised, as arrays of one size, and batches of them."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8
from torch.utils.data import default_collate

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import Batch, QuerySampling, Taught, by_role
from hybrid_patch.data.source import Array, Sample, Source, Window


@dataclasses.dataclass(frozen=True)
class Crop:
    """A sample's window as arrays of fixed size.

    Attributes:
        pixels: per modality `[H, W, T, C]`, normalised, zeros where missing.
        valid: per modality `[H, W, T]`.
        timestamps: `[T, 3]`.
        labels: `[h, w]` of the part of the window that is inside the sample; None if the source has none of pixels.
        label: of the whole sample; None if the source has none of samples.
        numbers: as `labels`, of a source whose labels are numbers.
    """

    pixels: dict[str, Float[Array, "h w _ _"]]
    valid: dict[str, Bool[Array, "h w _"]]
    timestamps: Int[Array, "t 3"]
    labels: Int[Array, "_ _"] | None
    label: int | None = None
    numbers: Float[Array, "_ _"] | None = None

    def any_valid(self, inputs: Collection[str]) -> Bool[Array, "h w"]:
        """`[H, W]`: where any of some modalities was measured at any time."""
        return np.any([self.valid[name].any(-1) for name in inputs], axis=0)

    def window(self, window: Window) -> "Crop":
        """A part of it, without labels; pixels outside the crop are missing."""

        def part(values: Array) -> Array:
            inside = values[window.slices]
            padded = np.zeros((window.height, window.width, *values.shape[2:]), values.dtype)
            padded[: inside.shape[0], : inside.shape[1]] = inside
            return padded

        return self._changed(part)

    def mirrored(self, height: int, width: int) -> "Crop":
        """At least so large, without labels: beyond its lower and right edges follows its mirror image."""

        def grown(values: Array) -> Array:
            missing = [(0, max(side - length, 0)) for side, length in zip((height, width), values.shape, strict=False)]
            return np.pad(values, [*missing, *[(0, 0)] * (values.ndim - 2)], mode="symmetric")

        return self._changed(grown)

    def turned(self, mirror_rows: bool, mirror_columns: bool, exchange: bool) -> "Crop":
        """Mirrored, then its rows and columns exchanged, without labels."""

        def turn(values: Array) -> Array:
            mirrored = values[:: -1 if mirror_rows else 1, :: -1 if mirror_columns else 1]
            return np.ascontiguousarray(mirrored.swapaxes(0, 1) if exchange else mirrored)

        return self._changed(turn)

    def _changed(self, change: Callable[[Array], Array]) -> "Crop":
        pixels = {name: change(values) for name, values in self.pixels.items()}
        return Crop(pixels, {name: change(valid) for name, valid in self.valid.items()}, self.timestamps, None)


class MaskedCrop(NamedTuple):
    """A crop in V views.

    Attributes:
        masks: per modality `[V, h, w, T, S]`.
        guide_mask: per modality `[V, H, W, T]` the pixels that upsamplers may look at; empty: all.
        band_mask: per modality `[C]` the bands that the encoder may look at; empty: all.
        path_mask: per stack of blocks `[V, depth, 2]` the residual branches that are not left out; empty: all.
        skipped: what was wrong with the broken samples that it replaces.
        taught: a teacher's numbers for a window `[H, W, T, S, K]`, per modality, and the window's corner in the crop.
        labels: `[H, W]` that are learned from, classes or numbers; None: none.
    """

    crop: Crop
    masks: dict[str, Int8[Array, "v _ _ _ _"]]
    guide_mask: dict[str, Bool[Array, "v _ _ _"]]
    band_mask: dict[str, Bool[Array, " _"]]
    path_mask: dict[str, Bool[Array, "v _ 2"]]
    skipped: tuple[str, ...] = ()
    taught: tuple[Mapping[str, Float[Array, "side side _ _ _"]], tuple[int, int]] | None = None
    labels: Int[Array, "h w"] | Float[Array, "h w"] | None = None


def collate(samples: Sequence[MaskedCrop], inputs: Collection[str], query_sampling: QuerySampling) -> Batch:
    """Samples as one batch."""
    by_sample = default_collate([(s.crop.pixels, s.crop.valid, s.crop.timestamps, s.band_mask) for s in samples])
    pixels, valid, timestamps, band_mask = by_sample
    by_view = default_collate([(s.masks, s.guide_mask, s.path_mask) for s in samples])
    masks, guide_mask, path_mask = ({n: views.flatten(0, 1) for n, views in tensors.items()} for tensors in by_view)
    skipped = tuple(message for sample in samples for message in sample.skipped)
    taught = None
    if all(sample.taught is not None for sample in samples):
        numbers, corners = zip(*(sample.taught for sample in samples), strict=True)
        taught = Taught(default_collate(numbers), torch.tensor(corners))
    labels = None
    if all(sample.labels is not None for sample in samples):
        labels = default_collate([sample.labels for sample in samples])
    return Batch(
        pixels,
        valid,
        timestamps,
        masks,
        *by_role(masks, inputs),
        query_sampling,
        guide_mask,
        band_mask=band_mask,
        path_mask=path_mask,
        skipped=skipped,
        taught=taught,
        labels=labels,
    )


def read_crop(
    source: Source, index: int, window: Window, timesteps: Int[Array, " t"], series: int, labels: bool = True
) -> Crop:
    """Read a window of a sample, normalised. Pixels outside the sample and modalities that it lacks are missing.

    Args:
        timesteps: which of the sample's timesteps, ascending.
        series: timesteps of the result, at least as many.

    Raises BrokenSampleError.
    """
    height, width, _ = source.shape(index)
    sample = source.read(index, window.within(height, width), timesteps, labels)
    return crop_of(sample, source.modalities, window, series)


def crop_of(sample: Sample, modalities: Mapping[str, Modality], window: Window, series: int) -> Crop:
    """What was read of a window, normalised, in arrays of its size and of `series` timesteps."""
    pixels, valid = {}, {}
    for name, modality in modalities.items():
        length = series if modality.temporal else 1
        pixels[name] = np.zeros((window.height, window.width, length, modality.channels), np.float32)
        valid[name] = np.zeros((window.height, window.width, length), bool)
        if name in sample.images:
            h, w, t = sample.valid[name].shape
            pixels[name][:h, :w, :t], valid[name][:h, :w, :t] = modality.normalise(
                sample.images[name], sample.valid[name]
            )
    timestamps = np.zeros((series, 3), np.int64)
    timestamps[: len(sample.timestamps)] = sample.timestamps
    return Crop(pixels, valid, timestamps, sample.labels, sample.label, sample.numbers)
