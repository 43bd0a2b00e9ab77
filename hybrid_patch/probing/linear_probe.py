"""How well a linear classifier reads the labels off per-pixel features."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, jaccard_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Array = np.ndarray

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the L2 penalty that are tried."""
MAX_ITERATIONS = 300


class Scores(NamedTuple):
    """On the validation pixels: IoU averaged over the classes that occur there, and accuracy."""

    miou: float
    accuracy: float


def fit_linear_probe(features: Float[Array, "n d"], labels: Int[Array, " n"], tiles: Int[Array, " n"]) -> Pipeline:
    """Multinomial logistic regression on standardised features.

    The strength of its penalty is the one that does best on a quarter of the tiles after learning on the others:
    pixels of one tile are too much alike to judge one another.

    Raises ValueError if there are fewer than two classes.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("a linear probe needs labels of two classes at least")
    held_out = tiles % 4 == 0
    judged = held_out.any() and len(np.unique(labels[~held_out])) > 1

    def score(penalty: float) -> float:
        probe = _fitted(features[~held_out], labels[~held_out], penalty)
        return float(probe.score(features[held_out], labels[held_out]))

    best = max(PENALTIES, key=score) if judged else PENALTIES[len(PENALTIES) // 2]
    return _fitted(features, labels, best)


def score_linear_probe(probe: Pipeline, features: Float[Array, "n d"], labels: Int[Array, " n"]) -> Scores:
    """Scores on labelled pixels; raises ValueError if there is none."""
    if len(labels) == 0:
        raise ValueError("no labelled validation pixel to score a probe on")
    predicted = probe.predict(features)
    miou = jaccard_score(labels, predicted, average="macro", labels=np.unique(labels), zero_division=0)
    return Scores(float(miou), float(accuracy_score(labels, predicted)))


def _fitted(features: Float[Array, "n d"], labels: Int[Array, " n"], penalty: float) -> Pipeline:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features, labels)
