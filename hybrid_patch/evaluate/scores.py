"""Scores of a map of classes, from counts of which class was taken for which."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.evaluate.label_maps import boundary_pixels, mixed_patches

Array = np.ndarray
Confusion = Int[Array, "truth predicted"]
"""How many pixels of each class (rows) were taken for each class (columns)."""

PARTS = ("all", "mixed", "boundary")
"""Pixels that are scored apart: all of them, those in patches of several classes, those beside another class."""
DRAWS = 1000
COVERAGE = 95
"""Per cent, of bootstrap intervals."""


class Estimate(NamedTuple):
    """A score: its mean over seeds, the interval of a bootstrap over groups, and the score of each seed."""

    mean: float
    low: float
    high: float
    seeds: list[float]


def confusions(
    labels: Int[Array, "h w"], predicted: Int[Array, "h w"], classes: int, patch_size: int
) -> dict[str, Confusion]:
    """The counts of a tile in each of `PARTS`; unlabelled pixels are not counted."""
    takes = {
        "all": labels != UNLABELLED,
        "mixed": mixed_patches(labels, patch_size),
        "boundary": boundary_pixels(labels),
    }
    return {part: _confusion(labels, predicted, take, classes) for part, take in takes.items()}


def _confusion(labels: Int[Array, "h w"], predicted: Int[Array, "h w"], take: Bool[Array, "h w"], n: int) -> Confusion:
    return np.bincount(labels[take] * n + predicted[take], minlength=n * n).reshape(n, n)


def class_iou(confusion: Int[Array, "n truth predicted"]) -> Float[Array, "n classes"]:
    """Intersection over union of each class; NaN for a class that no pixel has."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    truth, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truth > 0, hits / (truth + predicted - hits), np.nan)


def miou(confusion: Int[Array, "n truth predicted"]) -> Float[Array, " n"]:
    """IoU averaged over the classes that pixels have; NaN without any pixel."""
    iou = class_iou(confusion)
    there = ~np.isnan(iou)
    with np.errstate(invalid="ignore"):
        return np.where(there, iou, 0).sum(-1) / there.sum(-1)


def accuracy(confusion: Int[Array, "n truth predicted"]) -> Float[Array, " n"]:
    """The share of pixels whose class is right; NaN without any pixel."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1)
    with np.errstate(invalid="ignore"):
        return hits / confusion.sum((-2, -1))


Score = Callable[[Int[Array, "n truth predicted"]], Float[Array, " n"]]
SCORES: dict[str, Score] = {"miou": miou, "accuracy": accuracy}


class Counts:
    """The counts of all tiles of a split, by seed, part of the pixels, and group.

    Tiles of one group may share ground, so groups and not tiles are what a bootstrap draws.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._counts: dict[tuple[int, str], dict[int, Confusion]] = {}

    def add(self, seed: int, group: int, counts: Mapping[str, Confusion]) -> None:
        """The counts of one tile."""
        for part, confusion in counts.items():
            groups = self._counts.setdefault((seed, part), {})
            groups[group] = groups.get(group, np.zeros_like(confusion)) + confusion

    def report(self, names: Sequence[str], seed: int = 0) -> dict[str, dict[str, object]]:
        """By part: each of `SCORES` as an `Estimate`, and IoU (mean over seeds) and support (pixels) by class.

        A part without a pixel is left out. `seed` is the bootstrap's.
        """
        report: dict[str, dict[str, object]] = {}
        for part in PARTS:
            by_seed = [self._of(one, part) for one in sorted({one for one, _ in self._counts})]
            if not by_seed or not by_seed[0].any():
                continue
            iou = np.concatenate([class_iou(counts.sum(0, keepdims=True)) for counts in by_seed])
            support = by_seed[0].sum((0, 2))
            there = np.flatnonzero(support)
            report[part] = {
                **{name: self._estimate(score, by_seed, seed)._asdict() for name, score in SCORES.items()},
                "classes": {names[int(i)]: {"iou": float(iou[:, i].mean()), "support": int(support[i])} for i in there},
            }
        return report

    def _of(self, seed: int, part: str) -> Int[Array, "groups truth predicted"]:
        groups = self._counts[seed, part]
        return np.stack([groups[group] for group in sorted(groups)])

    def _estimate(self, score: Score, by_seed: Sequence[Int[Array, "groups t p"]], seed: int) -> Estimate:
        seeds = [float(score(counts.sum(0, keepdims=True))[0]) for counts in by_seed]
        rng = np.random.default_rng(seed)
        groups = len(by_seed[0])
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=DRAWS)
        means = np.mean([score(np.einsum("dg,gtp->dtp", drawn, counts)) for counts in by_seed], axis=0)
        tail = (100 - COVERAGE) / 2
        low, high = np.nanpercentile(means, [tail, 100 - tail])
        return Estimate(float(np.mean(seeds)), float(low), float(high), seeds)
