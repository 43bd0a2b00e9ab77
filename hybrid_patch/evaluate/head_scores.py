"""Scores of what a fine-tuned head predicts of whole tiles: of classes, or of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.data.source import UNLABELLED, Source
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.evaluate.features import Tile, read_tiles
from hybrid_patch.evaluate.scores import (
    BOOTSTRAP_DRAWS,
    accuracy,
    confusions,
    estimate_of_draws,
    miou,
    part_masks,
)
from hybrid_patch.runs.progress import Show, Work, unseen
from hybrid_patch.runs.stop_signal import Check, proceed

Array = np.ndarray
MAIN_SCORES = ("miou", "r2")
"""By which weights are chosen: that of classes, that of numbers. Higher is better."""


class NumberErrors:
    """Errors of predicted numbers, by group of tiles: those of a group may share ground."""

    def __init__(self) -> None:
        self._sums: dict[int, Float[Array, 4]] = {}

    def add(self, group: int, labels: Float[Array, "h w"], predicted: Float[Array, "h w"]) -> None:
        """Count the predictions for the labelled pixels of a tile."""
        valid_mask = np.isfinite(labels)
        y, error = labels[valid_mask].astype(np.float64), (predicted - labels)[valid_mask].astype(np.float64)
        self._add(group, np.array([len(y), (error**2).sum(), y.sum(), (y**2).sum()]))

    def _add(self, group: int, sums: Float[Array, "4"]) -> None:
        self._sums[group] = self._sums.get(group, np.zeros(4)) + sums

    def merge(self, other: "NumberErrors") -> None:
        """Add what another has counted of other tiles."""
        for group, sums in other._sums.items():
            self._add(group, sums)

    def scores(self) -> dict[str, float]:
        """`rmse`, in the unit of the labels, and `r2`, the share of their variance that is explained; or NaN."""
        total = np.sum(list(self._sums.values()) or [np.zeros(4)], axis=0)[None]
        return {"rmse": float(rmse(total)[0]), "r2": float(r_squared(total)[0])}

    def report(self, bootstrap_seed: int = 0) -> dict[str, Any] | None:
        """The scores as `Estimate`s, and the number of pixels; None without any."""
        sums = np.array([self._sums[group] for group in sorted(self._sums)]).reshape(-1, 4)
        if not sums[:, 0].any():
            return None
        groups = len(sums)
        drawn = np.random.default_rng(bootstrap_seed).multinomial(
            groups, np.full(groups, 1 / groups), size=BOOTSTRAP_DRAWS
        )
        of_draws = drawn @ sums
        return {
            **{
                name: estimate_of_draws(score(sums.sum(0)[None]), score(of_draws))._asdict()
                for name, score in (("rmse", rmse), ("r2", r_squared))
            },
            "pixels": int(sums[:, 0].sum()),
        }


def rmse(sums: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """The root of the mean squared error."""
    count, squares, _, _ = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(squares / count)


def r_squared(sums: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """One minus the squared error over that of the labels' own mean; NaN where all labels are the same."""
    count, squares, total, of_labels = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        variation = of_labels - total**2 / count
        return np.where(variation > 1e-9 * of_labels, 1 - squares / variation, np.nan)


def predicted_classes(probabilities: Float[Array, "h w k"], tile: Tile) -> Int[Array, "h w"]:
    """The most probable class of each pixel; `UNLABELLED` where there is no data."""
    return np.where(tile.valid_mask, probabilities.argmax(-1), UNLABELLED)


def validation_scores(
    model: TrainedModel, source: Source, max_tiles: int | None, check: Check = proceed, show: Show = unseen
) -> Mapping[str, float]:
    """`miou` and `accuracy` of all pixels of some validation tiles, or `rmse` and `r2`; NaN without a label."""
    errors, confusion = NumberErrors(), np.zeros((len(model.classes),) * 2)
    count = len(source.indices("val"))
    work = Work(show, count if max_tiles is None else min(count, max_tiles))
    for tile in work.on(read_tiles(source, "val", max_tiles, model.config.data.timesteps, check), 1, "validation tile"):
        predicted = model.predict_whole(tile.whole, model.tiling(), check)
        if model.classes and tile.labels is not None:
            masks = part_masks(tile.labels, 1)[:1]
            confusion += confusions(tile.labels, predicted_classes(predicted, tile), len(model.classes), masks)[0]
        elif tile.numbers is not None:
            errors.add(tile.group, tile.numbers, predicted[..., 0])
    if model.classes:
        return {"miou": float(miou(confusion[None])[0]), "accuracy": float(accuracy(confusion[None])[0])}
    return errors.scores()


def can_be_scored(model: TrainedModel, classes: Sequence[str]) -> bool:
    """Whether a model has a head, for the classes of a source, or for numbers where it has none."""
    return model.network.head is not None and model.classes == tuple(classes)
