"""Classifiers that features are scored by: a linear probe and the nearest neighbours, with all and with few labels."""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from hybrid_patch.config.schema import Evaluation
from hybrid_patch.evaluate.knn import NEIGHBOURS, NearestNeighbours
from hybrid_patch.evaluate.linear_probe import fit_linear_probe
from hybrid_patch.evaluate.pixel_sampling import PixelSample, draw_by_class, draw_of_each_class
from hybrid_patch.runs.stop_signal import Check

Array = np.ndarray
log = logging.getLogger(__name__)
LINEAR, KNN, MAJORITY, HEAD = "linear", "knn", "majority", "head"


class Fitted(NamedTuple):
    """A classifier, its name, and the seed with which its training pixels were drawn.

    Attributes:
        per_class: of how many labelled pixels of each class it learned, where these were few; 0 where they were all.
    """

    seed: int
    name: str
    per_class: int
    predict: Callable[[Float[Array, "n d"]], Int[Array, " n"]]

    @property
    def scored_everywhere(self) -> bool:
        """Whether it is scored on all pixels: the others cost too much for that."""
        return self.name != KNN and not self.per_class


ORACLE_CLASSIFIER = Fitted(0, MAJORITY, 0, lambda values: values[:, 0].astype(np.int64))
"""Of the oracle, whose feature is the class."""


def fit_classifiers(
    sample: PixelSample, seed: int, settings: Evaluation, device: torch.device, check: Check
) -> list[Fitted]:
    """Linear probes and, unless `knn_pixels` is 0, nearest neighbours: of all pixels of a sample, and of few of them.

    With few pixels of each class, no more than half as many neighbours vote.
    """
    fitted = []
    for per_class in (0, *settings.few_labels):
        rng = np.random.default_rng(seed)
        pixels = draw_of_each_class(sample.labels, per_class, rng) if per_class else slice(None)
        features, labels, tiles = (x[pixels] for x in sample)
        probe = fit_linear_probe(features, labels, tiles, check, device)
        if not probe.converged:
            log.warning("the linear probe of seed %d has not converged", seed)
        fitted.append(Fitted(seed, LINEAR, per_class, probe.predict))
        if settings.knn_pixels:
            bank = draw_by_class(labels, settings.knn_pixels, rng)
            neighbours = min(NEIGHBOURS, max(per_class // 2, 1)) if per_class else NEIGHBOURS
            knn = NearestNeighbours.fit(features[bank], labels[bank], neighbours, device)
            fitted.append(Fitted(seed, KNN, per_class, partial(knn.predict, check=check)))
    return fitted
