"""A linear probe: multinomial logistic regression on the features of pixels."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize

from hybrid_patch.runs.stop_signal import Check, proceed

Array = np.ndarray

WEIGHT_DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Candidate strengths of the L2 penalty, relative to the mean loss per pixel."""
MAX_ITERATIONS = 1000
TOLERANCE = 1e-5
"""On the preconditioned gradient's largest entry; the one on the loss's relative decrease is a thousandth of it."""
MAX_SEARCH_PIXELS = 40_000
"""About this many pixels at most train the candidates."""


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on features standardised by `mean` and `scale`; `classes` are the labels."""

    classes: Int[Array, " c"]
    mean: Float[Array, " d"]
    scale: Float[Array, " d"]
    weight: Float[Array, "d c"]
    bias: Float[Array, " c"]
    decay: float
    converged: bool

    def predict(self, features: Float[Array, "n d"]) -> Int[Array, " n"]:
        """The most likely class of each pixel."""
        weight = self.weight / self.scale[:, None]
        logits = features @ weight.astype(features.dtype) + (self.bias - self.mean @ weight).astype(features.dtype)
        return self.classes[logits.argmax(1)]


def fit_linear_probe(
    features: Float[Array, "n d"], labels: Int[Array, " n"], tiles: Int[Array, " n"], check: Check = proceed
) -> LinearProbe:
    """A probe with the penalty that scores best on a held-out quarter of the tiles, fitted on all pixels.

    Whole tiles are held out because pixels of one tile are too similar to validate each other. `labels` must have at
    least two classes.
    """
    held_out = np.unique(tiles, return_inverse=True)[1].reshape(-1) % 4 == 0
    can_search = held_out.any() and len(np.unique(labels[~held_out])) > 1
    step = max(int((~held_out).sum()) // MAX_SEARCH_PIXELS, 1)
    training = np.flatnonzero(~held_out)[::step]

    def score(decay: float) -> float:
        probe = logistic_regression(features[training], labels[training], decay, check)
        return float((probe.predict(features[held_out]) == labels[held_out]).mean())

    best = max(WEIGHT_DECAYS, key=score) if can_search else WEIGHT_DECAYS[len(WEIGHT_DECAYS) // 2]
    return logistic_regression(features, labels, best, check)


def logistic_regression(
    features: Float[Array, "n d"], labels: Int[Array, " n"], decay: float, check: Check = proceed
) -> LinearProbe:
    """The minimum of the mean cross-entropy plus `decay / 2 · |weight|^2` (the bias is free).

    L-BFGS, preconditioned: in its coordinates the covariance of the standardised features plus the penalty is the
    identity. A network's features are so correlated that without this it takes thousands of steps (scikit-learn's lbfgs
    takes five times as long).
    """
    mean = features.mean(0, dtype=np.float64)
    scale = features.std(0, dtype=np.float64)
    scale[scale == 0] = 1
    standard = ((features - mean) / scale).astype(np.float32)
    n, d = standard.shape
    variance, axes = np.linalg.eigh((standard.T @ standard).astype(np.float64) / n)
    # Softmax has a curvature of 1/4 at most.
    to_weight = axes / np.sqrt(np.maximum(variance, 0) / 4 + decay + 1e-8)
    whitened = standard @ to_weight.astype(np.float32)
    classes, truth = np.unique(labels, return_inverse=True)
    truth, c, rows = truth.reshape(-1), len(classes), np.arange(n)

    def loss_and_gradient(flat: Float[Array, " _"]) -> tuple[float, Float[Array, " _"]]:
        check()
        parameters = flat.reshape(d + 1, c)
        logits = whitened @ parameters[:d].astype(np.float32) + parameters[d].astype(np.float32)
        logits -= logits.max(1, keepdims=True)
        true_logits = logits[rows, truth].copy()
        np.exp(logits, out=logits)
        total = logits.sum(1)
        logits /= total[:, None]
        logits[rows, truth] -= 1
        weight = to_weight @ parameters[:d]
        loss = float((np.log(total, dtype=np.float64) - true_logits).mean() + decay / 2 * (weight**2).sum())
        gradient = np.concatenate([whitened.T @ logits, logits.sum(0, keepdims=True)]).astype(np.float64) / n
        gradient[:d] += decay * (to_weight.T @ weight)
        return loss, gradient.ravel()

    # Curvatures are about 1 in these coordinates, so the gradient's entries are distances from the minimum.
    fit = minimize(
        loss_and_gradient,
        np.zeros((d + 1) * c),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": TOLERANCE * 1e-3},
    )
    parameters = fit.x.reshape(d + 1, c)
    return LinearProbe(classes, mean, scale, to_weight @ parameters[:d], parameters[d], decay, fit.nit < MAX_ITERATIONS)
