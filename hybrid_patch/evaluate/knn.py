"""How well the labels of the nearest training pixels tell a pixel's own."""

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from hybrid_patch.evaluate.linear_probe import NotEnoughLabelsError

Array = np.ndarray
NEIGHBOURS = 20
TREE_DIMENSIONS = 16
"""Up to so many numbers per pixel a tree finds neighbours faster than looking at all."""


def fit_knn(features: Float[Array, "n d"], labels: Int[Array, " n"], most: int, rng: np.random.Generator) -> Pipeline:
    """The majority of the 20 nearest of at most `most` training pixels, on standardised features.

    They are drawn by class, so that a rare one is not drowned.

    Raises NotEnoughLabelsError if there are fewer than two classes.
    """
    if len(np.unique(labels)) < 2:
        raise NotEnoughLabelsError("a classifier needs training labels of two classes at least")
    bank = draw_by_class(labels, most, rng)
    algorithm = "kd_tree" if features.shape[1] <= TREE_DIMENSIONS else "brute"
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(bank)), algorithm=algorithm)
    return make_pipeline(StandardScaler(), neighbours).fit(features[bank], labels[bank])


def draw_by_class(labels: Int[Array, " n"], most: int, rng: np.random.Generator) -> Int[Array, " m"]:
    """At most `most` places: each class has an equal share, and what small classes leave goes to the larger ones."""
    places = [rng.permutation(np.flatnonzero(labels == value)) for value in np.unique(labels)]
    chosen: list[Int[Array, " _"]] = []
    left = most
    for number, those in enumerate(sorted(places, key=len)):
        taken = those[: left // (len(places) - number)]
        chosen.append(taken)
        left -= len(taken)
    return np.concatenate(chosen)
