"""The labelled training pixels that classifiers learn from."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.evaluate.features import Features, Tile
from hybrid_patch.evaluate.linear_probe import NotEnoughLabelsError

Array = np.ndarray


class Pool(NamedTuple):
    """Labelled pixels (or whole tiles, where these have the labels) of the train split.

    Attributes:
        features: `[n, d]`.
        labels: `[n]`.
        tiles: `[n]` number of the tile that each is from.
    """

    features: Float[Array, "n d"]
    labels: Int[Array, " n"]
    tiles: Int[Array, " n"]


def draw_pools(features: Features, train: Iterable[Tile], most: int, seeds: int) -> list[Pool]:
    """A draw for every seed: as many pixels from each tile, at most `most` in all.

    Tiles are gone through once, and no more than twice as many pixels are held for each seed.

    Raises NotEnoughLabelsError if there is none.
    """
    parts: list[list[Pool]] = [[] for _ in range(seeds)]
    for number, tile in enumerate(train):
        assert tile.labels is not None
        labels = tile.labels.ravel()
        there = np.flatnonzero(labels != UNLABELLED)
        if not len(there):
            continue
        values = tile.described(features(tile))
        values = values.reshape(-1, values.shape[-1])
        for seed, part in enumerate(parts):
            drawn = np.random.default_rng([seed, number]).permutation(there)[:most]
            part.append(Pool(values[drawn], labels[drawn], np.full(len(drawn), number)))
            if sum(len(pool.labels) for pool in part) > 2 * most:
                part[:] = _shortened(part, most)
    if not parts[0]:
        raise NotEnoughLabelsError("no training tile has a labelled pixel")
    return [Pool(*(np.concatenate(arrays) for arrays in zip(*_shortened(part, most), strict=True))) for part in parts]


def _shortened(pools: Sequence[Pool], most: int) -> list[Pool]:
    """As many pixels of each tile, at most `most` in all, but one of each at least; they are in random order."""
    each = max(most // len(pools), 1)
    return [Pool(*(array[:each].copy() for array in pool)) for pool in pools]
