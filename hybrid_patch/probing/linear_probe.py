"""How well a linear classifier reads the labels off per-pixel features."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, jaccard_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hybrid_patch.data.sample import UNLABELLED

Array = np.ndarray
MAX_ITERATIONS = 300


class Scores(NamedTuple):
    """On the validation pixels: IoU averaged over the classes that occur there, and accuracy."""

    miou: float
    accuracy: float


def linear_probe(
    train_features: Float[Array, "n d"],
    train_labels: Int[Array, " n"],
    val_features: Float[Array, "m d"],
    val_labels: Int[Array, " m"],
    most_train: int,
    seed: int,
) -> Scores:
    """Multinomial logistic regression on standardised features of at most `most_train` labelled pixels.

    Raises ValueError if the labelled training pixels have fewer than two classes or there is nothing to score.
    """
    labelled = np.flatnonzero(train_labels != UNLABELLED)
    chosen = np.random.default_rng(seed).permutation(labelled)[:most_train]
    scored = val_labels != UNLABELLED
    if len(np.unique(train_labels[chosen])) < 2 or not scored.any():
        raise ValueError("a probe needs two classes to learn and one labelled validation pixel")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(train_features[chosen], train_labels[chosen])
    truth, predicted = val_labels[scored], probe.predict(val_features[scored])
    miou = jaccard_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)
    return Scores(float(miou), float(accuracy_score(truth, predicted)))
