"""Predictions for validation tiles, counted by kind of features and classifier, and what a report says of them."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.evaluate.classifiers import LINEAR, MAJORITY, Fitted
from hybrid_patch.evaluate.features import Tile
from hybrid_patch.evaluate.pixel_sampling import draw_scored
from hybrid_patch.evaluate.scores import ConfusionCounts, part_masks

Array = np.ndarray
MIXED_SIDE = 8
"""Side, in pixels, of the patches that count as mixed, that `means` averages, and that the oracle gives one class."""


class Results:
    """Counts of the predictions from each kind of features; `scored_pixels` of a tile for what is not scored on all."""

    def __init__(self, classes: Sequence[str], scored_pixels: int) -> None:
        self.classes, self.scored_pixels = classes, scored_pixels
        self._counts: dict[str, dict[tuple[str, int], ConfusionCounts]] = {}

    def add(
        self, kind: str, classifiers: Sequence[Fitted], tile: Tile, number: int, values: Float[Array, "h w d"]
    ) -> Int[Array, "rows columns"] | None:
        """Count the predictions for the tile of a number from its features; returns the first classifier's map."""
        if not classifiers:
            return None
        assert tile.labels is not None
        of_kind = self._counts.setdefault(kind, {})
        masks, maps = part_masks(tile.labels, MIXED_SIDE), []
        seeds = {each.seed for each in classifiers}
        drawn = {seed: draw_scored(tile.labels, seed, number, self.scored_pixels) for seed in seeds}
        for each in classifiers:
            pixels = slice(None) if each.scored_everywhere else drawn[each.seed]
            maps.append(tile.predict(each.predict, values, pixels))
            counts = of_kind.setdefault((each.name, each.per_class), ConfusionCounts(self.classes))
            counts.add(each.seed, tile.group, tile.labels, maps[-1], masks)
        return maps[0]

    def add_map(self, kind: str, name: str, tile: Tile, predicted: Int[Array, "h w"]) -> None:
        """Count a map of classes that was predicted of a tile by something else than a fitted classifier."""
        assert tile.labels is not None
        counts = self._counts.setdefault(kind, {}).setdefault((name, 0), ConfusionCounts(self.classes))
        counts.add(0, tile.group, tile.labels, predicted, part_masks(tile.labels, MIXED_SIDE))

    def merge(self, other: "Results") -> None:
        """Add what another has counted of other tiles."""
        for kind, theirs in other._counts.items():
            of_kind = self._counts.setdefault(kind, {})
            for classifier, counts in theirs.items():
                of_kind.setdefault(classifier, ConfusionCounts(self.classes)).merge(counts)

    def features(self) -> dict[str, dict[str, Any]]:
        """The scores by kind and classifier, with all labels."""
        return {
            kind: {name: counts.report() for (name, per_class), counts in of_kind.items() if not per_class}
            for kind, of_kind in self._counts.items()
        }

    def few_labels(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The scores by kind, classifier and labelled pixels of each class, where these were few."""
        report: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for kind, of_kind in self._counts.items():
            for (name, per_class), counts in of_kind.items():
                if per_class:
                    report[kind].setdefault(name, {})[str(per_class)] = counts.report()
        return dict(report)

    def above(self, kind: str) -> dict[str, dict[str, Any]]:
        """By other kind and classifier how much higher the mIoU of a kind is; empty if tiles are of a single group."""
        ours = self._counts.get(kind, {})
        return {
            other: {
                name: {part: estimate._asdict() for part, estimate in ours[name, 0].above(counts).items()}
                for (name, per_class), counts in of_kind.items()
                if not per_class
            }
            for other, of_kind in self._counts.items()
            if other != kind and (MAJORITY, 0) not in of_kind and ours[LINEAR, 0].groups > 1
        }
