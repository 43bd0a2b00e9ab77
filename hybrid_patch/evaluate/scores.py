"""Scores of predicted class maps, computed from confusion matrices."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.evaluate.label_maps import boundary_pixels, mixed_patches

Array = np.ndarray
Confusion = Int[Array, "truth predicted"]
"""How many pixels of each class (rows) were predicted as each class (columns)."""

PARTS = ("all", "mixed", "boundary")
"""Sets of pixels with scores of their own: all, those in patches of several classes, those next to another class."""
BOOTSTRAP_DRAWS = 1000
COVERAGE = 95
"""Of the bootstrap intervals, per cent."""


class Estimate(NamedTuple):
    """A score: its mean over seeds, a bootstrap interval over groups, and its value for each seed."""

    mean: float
    low: float
    high: float
    seeds: list[float]


def confusions(
    labels: Int[Array, "h w"], predicted: Int[Array, "h w"], classes: int, patch_size: int
) -> dict[str, Confusion]:
    """A tile's confusion matrix in each of `PARTS`; unlabelled pixels do not count."""
    masks = {
        "all": labels != UNLABELLED,
        "mixed": mixed_patches(labels, patch_size),
        "boundary": boundary_pixels(labels),
    }
    pairs = labels * classes + predicted
    shape = (classes, classes)
    return {part: np.bincount(pairs[mask], minlength=classes**2).reshape(shape) for part, mask in masks.items()}


def class_iou(confusion: Int[Array, "n truth predicted"]) -> Float[Array, "n classes"]:
    """Intersection over union of each class; NaN for a class that no pixel has."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    truth, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truth > 0, hits / (truth + predicted - hits), np.nan)


def miou(confusion: Int[Array, "n truth predicted"]) -> Float[Array, " n"]:
    """IoU averaged over the classes that occur; NaN without any pixel."""
    iou = class_iou(confusion)
    occurs = ~np.isnan(iou)
    with np.errstate(invalid="ignore"):
        return np.where(occurs, iou, 0).sum(-1) / occurs.sum(-1)


def accuracy(confusion: Int[Array, "n truth predicted"]) -> Float[Array, " n"]:
    """The share of pixels whose class is right; NaN without any pixel."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1)
    with np.errstate(invalid="ignore"):
        return hits / confusion.sum((-2, -1))


Score = Callable[[Int[Array, "n truth predicted"]], Float[Array, " n"]]
SCORES: dict[str, Score] = {"miou": miou, "accuracy": accuracy}


class ConfusionCounts:
    """Confusion matrices of a split, summed by seed, part of the pixels, and group of tiles.

    The bootstrap draws groups, not tiles, because tiles of one group may share ground.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self._counts: dict[tuple[int, str], dict[int, Confusion]] = {}

    def add(self, seed: int, group: int, labels: Int[Array, "h w"], predicted: Int[Array, "h w"], side: int) -> None:
        """Count the predictions for one tile; `side` is that of the patches that may be mixed."""
        for part, confusion in confusions(labels, predicted, len(self.classes), side).items():
            groups = self._counts.setdefault((seed, part), {})
            groups[group] = groups.get(group, np.zeros_like(confusion)) + confusion

    def report(self, bootstrap_seed: int = 0) -> dict[str, dict[str, object]]:
        """By part: each of `SCORES` as an `Estimate`, and IoU (mean over seeds) and support (pixels) by class.

        Parts without pixels are left out.
        """
        report: dict[str, dict[str, object]] = {}
        for part in PARTS:
            by_seed = [self._by_group(seed, part) for seed in sorted({seed for seed, _ in self._counts})]
            if not by_seed or not by_seed[0].any():
                continue
            iou = np.concatenate([class_iou(counts.sum(0, keepdims=True)) for counts in by_seed]).mean(0)
            support = by_seed[0].sum((0, 2))
            report[part] = {
                **{name: _estimate(score, by_seed, bootstrap_seed)._asdict() for name, score in SCORES.items()},
                "classes": {
                    name: {"iou": float(iou[i]), "support": int(support[i])}
                    for i, name in enumerate(self.classes)
                    if support[i]
                },
            }
        return report

    def _by_group(self, seed: int, part: str) -> Int[Array, "groups truth predicted"]:
        groups = self._counts[seed, part]
        return np.stack([groups[group] for group in sorted(groups)])


def _estimate(score: Score, by_seed: Sequence[Int[Array, "groups t p"]], bootstrap_seed: int) -> Estimate:
    seeds = [float(score(counts.sum(0, keepdims=True))[0]) for counts in by_seed]
    rng = np.random.default_rng(bootstrap_seed)
    groups = len(by_seed[0])
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=BOOTSTRAP_DRAWS)
    means = np.mean([score(np.einsum("dg,gtp->dtp", drawn, counts)) for counts in by_seed], axis=0)
    tail = (100 - COVERAGE) / 2
    low, high = np.nanpercentile(means, [tail, 100 - tail])
    return Estimate(float(np.mean(seeds)), float(low), float(high), seeds)
