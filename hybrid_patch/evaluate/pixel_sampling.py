"""The labelled training pixels that classifiers learn from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.embed.threads import Mapped, in_turn
from hybrid_patch.evaluate.features import Features, Tile

Array = np.ndarray


class NotEnoughLabelsError(ValueError):
    """The training labels have fewer than two classes."""


class PixelSample(NamedTuple):
    """Labelled pixels of the train split (or whole tiles, where these have the labels), and each one's tile number."""

    features: Float[Array, "n d"]
    labels: Int[Array, " n"]
    tiles: Int[Array, " n"]


def sample_pixels(
    features: Mapping[str, Features], train: Iterable[Tile], max_pixels: int, seeds: int, mapped: Mapped = in_turn
) -> dict[str, list[PixelSample]]:
    """For each kind of features a sample for every seed: as many pixels from each tile, at most `max_pixels` in all.

    All kinds have the same pixels. Holds at most twice as many for each seed. Raises NotEnoughLabelsError for labels of
    fewer than two classes.
    """
    parts: dict[str, list[list[PixelSample]]] = {kind: [[] for _ in range(seeds)] for kind in features}
    for of_tile in mapped(lambda numbered: _of_tile(features, *numbered, max_pixels, seeds), enumerate(train)):
        for kind, drawn in of_tile.items():
            for part, sample in zip(parts[kind], drawn, strict=True):
                part.append(sample)
                if sum(len(sample.labels) for sample in part) > 2 * max_pixels:
                    part[:] = _shortened(part, max_pixels)
    if not all(part for of_kind in parts.values() for part in of_kind):
        raise NotEnoughLabelsError("no training tile has a labelled pixel")
    samples = {kind: [_together(part, max_pixels) for part in of_kind] for kind, of_kind in parts.items()}
    if any(len(np.unique(sample.labels)) < 2 for of_kind in samples.values() for sample in of_kind):
        raise NotEnoughLabelsError("a classifier needs training labels of at least two classes")
    return samples


def _of_tile(
    features: Mapping[str, Features], number: int, tile: Tile, max_pixels: int, seeds: int
) -> dict[str, list[PixelSample]]:
    """For each kind of features a tile's sample for every seed; none if no pixel has a label."""
    assert tile.labels is not None
    labels = tile.labels.ravel()
    drawn = [draw_pixels(tile.labels, seed, number, max_pixels) for seed in range(seeds)]
    samples: dict[str, list[PixelSample]] = {}
    for kind, of_kind in features.items() if len(drawn[0]) else ():
        values = tile.per_label(of_kind(tile))
        values = values.reshape(-1, values.shape[-1])
        samples[kind] = [PixelSample(values[pixels], labels[pixels], np.full(len(pixels), number)) for pixels in drawn]
    return samples


def draw_pixels(labels: Int[Array, "h w"], seed: int, tile: int, count: int) -> Int[Array, " n"]:
    """The numbers of at most `count` labelled pixels, in random order: the same for one seed and tile's number."""
    return np.random.default_rng([seed, tile]).permutation(np.flatnonzero(labels != UNLABELLED))[:count]


def draw_scored(labels: Int[Array, "h w"], seed: int, tile: int, count: int) -> Int[Array, " n"]:
    """The numbers of at most `count` labelled pixels, by class, so that rare ones are among them."""
    labelled = np.flatnonzero(labels != UNLABELLED)
    if len(labelled) <= count:
        return labelled
    return labelled[draw_by_class(labels.ravel()[labelled], count, np.random.default_rng([seed, tile]))]


def draw_of_each_class(labels: Int[Array, " n"], count: int, rng: np.random.Generator) -> Int[Array, " m"]:
    """Indices of `count` pixels of each class, or of all that there are."""
    return np.concatenate([rng.permutation(np.flatnonzero(labels == value))[:count] for value in np.unique(labels)])


def draw_by_class(labels: Int[Array, " n"], max_pixels: int, rng: np.random.Generator) -> Int[Array, " m"]:
    """Indices of at most `max_pixels`: equal shares for all classes; what small classes leave goes to larger ones."""
    by_class = [rng.permutation(np.flatnonzero(labels == value)) for value in np.unique(labels)]
    chosen: list[Int[Array, " _"]] = []
    left = max_pixels
    for number, indices in enumerate(sorted(by_class, key=len)):
        chosen.append(indices[: left // (len(by_class) - number)])
        left -= len(chosen[-1])
    return np.concatenate(chosen)


def _together(samples: Sequence[PixelSample], max_pixels: int) -> PixelSample:
    return PixelSample(*map(np.concatenate, zip(*_shortened(samples, max_pixels), strict=True)))


def _shortened(samples: Sequence[PixelSample], max_pixels: int) -> list[PixelSample]:
    """The same number of pixels of each tile (they are in random order), at least one, at most `max_pixels` in all."""
    per_tile = max(max_pixels // len(samples), 1)
    return [PixelSample(*(array[:per_tile].copy() for array in sample)) for sample in samples]
