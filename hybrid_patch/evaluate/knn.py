"""The nearest neighbours as a classifier of pixels."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from hybrid_patch.runs.stop_signal import Check

Array = np.ndarray
NEIGHBOURS = 20
BLOCK = 4096
"""Pixels that are classified between two checks: a second or so."""
MAX_TREE_DIMENSIONS = 16
"""With more numbers per pixel than this, brute force is faster than a tree."""


def fit_knn(
    features: Float[Array, "n d"], labels: Int[Array, " n"], max_pixels: int, rng: np.random.Generator
) -> Pipeline:
    """A classifier by the 20 nearest of at most `max_pixels` pixels, drawn by class so that rare ones count."""
    bank = draw_by_class(labels, max_pixels, rng)
    algorithm = "kd_tree" if features.shape[1] <= MAX_TREE_DIMENSIONS else "brute"
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(bank)), algorithm=algorithm)
    return make_pipeline(StandardScaler(), neighbours).fit(features[bank], labels[bank])


def draw_by_class(labels: Int[Array, " n"], max_pixels: int, rng: np.random.Generator) -> Int[Array, " m"]:
    """Indices of at most `max_pixels`: equal shares for all classes; what small classes leave goes to larger ones."""
    by_class = [rng.permutation(np.flatnonzero(labels == value)) for value in np.unique(labels)]
    chosen: list[Int[Array, " _"]] = []
    left = max_pixels
    for number, indices in enumerate(sorted(by_class, key=len)):
        chosen.append(indices[: left // (len(by_class) - number)])
        left -= len(chosen[-1])
    return np.concatenate(chosen)


def in_blocks(
    predict: Callable[[Float[Array, "m d"]], Int[Array, " m"]], check: Check
) -> Callable[[Float[Array, "n d"]], Int[Array, " n"]]:
    """The same prediction, with a check before each block of pixels."""

    def predict_block(features: Float[Array, "m d"]) -> Int[Array, " m"]:
        check()
        return predict(features)

    def predict_all(features: Float[Array, "n d"]) -> Int[Array, " n"]:
        blocks = np.array_split(features, -(-len(features) // BLOCK))
        return np.concatenate([predict_block(block) for block in blocks])

    return predict_all
