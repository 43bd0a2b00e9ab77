"""Scores of predicted class maps, computed from confusion matrices."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.evaluate.label_maps import boundary_pixels, mixed_patches

Array = np.ndarray

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


def part_masks(labels: Int[Array, "h w"], patch_size: int) -> Bool[Array, "parts h w"]:
    """The pixels of each of `PARTS`."""
    return np.stack([labels != UNLABELLED, mixed_patches(labels, patch_size), boundary_pixels(labels)])


def confusions(
    labels: Int[Array, "h w"], predicted: Int[Array, "h w"], classes: int, masks: Bool[Array, "parts h w"]
) -> Float[Array, "parts truth predicted"]:
    """How many pixels of each class were predicted as each class, in each mask.

    Where not all pixels have a prediction, those of each class that have one stand for all of this class.
    """
    scored = masks & (predicted != UNLABELLED)
    total, drawn = (np.bincount(labels[mask], minlength=classes) for mask in (labels != UNLABELLED, scored[0]))
    weight, pairs = total / np.maximum(drawn, 1), labels * classes + predicted
    counts = [np.bincount(pairs[mask], weight[labels[mask]], classes**2) for mask in scored]
    return np.stack(counts).reshape(-1, classes, classes).astype(float)


def class_iou(confusion: Float[Array, "*n truth predicted"]) -> Float[Array, "*n classes"]:
    """Intersection over union of each class; NaN for a class that no pixel has."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    truth, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truth > 0, hits / (truth + predicted - hits), np.nan)


def miou(confusion: Float[Array, "*n truth predicted"]) -> Float[Array, "*n"]:
    """IoU averaged over the classes that occur; NaN without any pixel."""
    iou = class_iou(confusion)
    occurs = ~np.isnan(iou)
    with np.errstate(invalid="ignore"):
        return np.where(occurs, iou, 0).sum(-1) / occurs.sum(-1)


def accuracy(confusion: Float[Array, "*n truth predicted"]) -> Float[Array, "*n"]:
    """The share of pixels whose class is right; NaN without any pixel."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1)
    with np.errstate(invalid="ignore"):
        return hits / confusion.sum((-2, -1))


Score = Callable[[Float[Array, "*n truth predicted"]], Float[Array, "*n"]]
SCORES: dict[str, Score] = {"miou": miou, "accuracy": accuracy}


class ConfusionCounts:
    """Confusion matrices of a split, by seed and by group of tiles: those of a group may share ground."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self._counts: dict[int, dict[int, Float[Array, "parts truth predicted"]]] = {}

    def add(
        self,
        seed: int,
        group: int,
        labels: Int[Array, "h w"],
        predicted: Int[Array, "h w"],
        masks: Bool[Array, "parts h w"],
    ) -> None:
        """Count the predictions for one tile, with its `part_masks`."""
        self._add(seed, group, confusions(labels, predicted, len(self.classes), masks))

    def _add(self, seed: int, group: int, confusion: Float[Array, "parts truth predicted"]) -> None:
        groups = self._counts.setdefault(seed, {})
        groups[group] = groups.get(group, np.zeros_like(confusion)) + confusion

    def merge(self, other: "ConfusionCounts") -> None:
        """Add what another has counted of other tiles."""
        for seed, groups in other._counts.items():
            for group, confusion in groups.items():
                self._add(seed, group, confusion)

    @property
    def groups(self) -> int:
        """How many groups of tiles have been counted."""
        return len(next(iter(self._counts.values()), ()))

    def parts(self) -> dict[str, Float[Array, "seeds groups truth predicted"]]:
        """The confusion matrices of each part that has pixels."""
        by_seed = [[groups[group] for group in sorted(groups)] for groups in self._counts.values()]
        counts = np.moveaxis(np.array(by_seed), 2, 0) if by_seed else ()
        return {part: of_part for part, of_part in zip(PARTS, counts, strict=False) if of_part.any()}

    def report(self, bootstrap_seed: int = 0) -> dict[str, dict[str, object]]:
        """By part that has pixels: `SCORES` as `Estimate`s, and by class IoU (mean over seeds) and support (pixels)."""
        report: dict[str, dict[str, object]] = {}
        for part, counts in self.parts().items():
            total = counts.sum(1)
            iou, support = class_iou(total).mean(0), total[0].sum(1)
            report[part] = {
                **{name: _estimate(score, counts, bootstrap_seed)._asdict() for name, score in SCORES.items()},
                "classes": {
                    name: {"iou": float(iou[i]), "support": round(float(support[i]))}
                    for i, name in enumerate(self.classes)
                    if support[i]
                },
            }
        return report

    def above(self, other: "ConfusionCounts", bootstrap_seed: int = 0) -> dict[str, Estimate]:
        """By part, how much higher the mIoU is than another's for the same tiles, over the same draws of groups."""
        theirs = other.parts()
        return {
            part: estimate_of_draws(
                miou(counts.sum(1)) - miou(theirs[part].sum(1)),
                _bootstrap(miou, counts, bootstrap_seed) - _bootstrap(miou, theirs[part], bootstrap_seed),
            )
            for part, counts in self.parts().items()
        }


def _estimate(score: Score, counts: Float[Array, "seeds groups truth predicted"], bootstrap_seed: int) -> Estimate:
    return estimate_of_draws(score(counts.sum(1)), _bootstrap(score, counts, bootstrap_seed))


def _bootstrap(
    score: Score, counts: Float[Array, "seeds groups truth predicted"], bootstrap_seed: int
) -> Float[Array, " draws"]:
    """The score's mean over seeds for each draw of groups."""
    rng, groups = np.random.default_rng(bootstrap_seed), counts.shape[1]
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=BOOTSTRAP_DRAWS)
    return score(np.tensordot(drawn, counts, (1, 1))).mean(1)


def estimate_of_draws(seeds: Float[Array, " seeds"], draws: Float[Array, " draws"]) -> Estimate:
    """An estimate from the score of each seed, and of each draw of groups."""
    tail = (100 - COVERAGE) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return Estimate(float(seeds.mean()), float(low), float(high), seeds.tolist())
