"""The labelled training pixels that classifiers learn from."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.evaluate.features import Features, Tile

Array = np.ndarray


class NotEnoughLabelsError(ValueError):
    """The training labels have fewer than two classes."""


class PixelSample(NamedTuple):
    """Labelled pixels of the train split (or whole tiles, where these have the labels), and each one's tile number."""

    features: Float[Array, "n d"]
    labels: Int[Array, " n"]
    tiles: Int[Array, " n"]


def sample_pixels(features: Features, train: Iterable[Tile], max_pixels: int, seeds: int) -> list[PixelSample]:
    """A sample for every seed: the same number of pixels from each tile, at most `max_pixels` in all.

    Holds at most twice as many for each seed. Raises NotEnoughLabelsError for labels of fewer than two classes.
    """
    parts: list[list[PixelSample]] = [[] for _ in range(seeds)]
    for number, tile in enumerate(train):
        assert tile.labels is not None
        labels = tile.labels.ravel()
        labelled = np.flatnonzero(labels != UNLABELLED)
        if not len(labelled):
            continue
        values = tile.per_label(features(tile))
        values = values.reshape(-1, values.shape[-1])
        for seed, part in enumerate(parts):
            drawn = np.random.default_rng([seed, number]).permutation(labelled)[:max_pixels]
            part.append(PixelSample(values[drawn], labels[drawn], np.full(len(drawn), number)))
            if sum(len(sample.labels) for sample in part) > 2 * max_pixels:
                part[:] = _shortened(part, max_pixels)
    if not parts[0]:
        raise NotEnoughLabelsError("no training tile has a labelled pixel")
    samples = [PixelSample(*map(np.concatenate, zip(*_shortened(part, max_pixels), strict=True))) for part in parts]
    if any(len(np.unique(sample.labels)) < 2 for sample in samples):
        raise NotEnoughLabelsError("a classifier needs training labels of at least two classes")
    return samples


def _shortened(samples: Sequence[PixelSample], max_pixels: int) -> list[PixelSample]:
    """The same number of pixels of each tile (they are in random order), at least one, at most `max_pixels` in all."""
    per_tile = max(max_pixels // len(samples), 1)
    return [PixelSample(*(array[:per_tile].copy() for array in sample)) for sample in samples]
