"""A linear probe: multinomial logistic regression on the features of pixels."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize

from hybrid_patch.evaluate.standardise import Standardised
from hybrid_patch.runs.stop_signal import Check, proceed

Array = np.ndarray
CPU = torch.device("cpu")

WEIGHT_DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Candidate strengths of the L2 penalty, relative to the mean loss per pixel."""
MAX_ITERATIONS = 1000
TOLERANCE = 1e-4
"""On the preconditioned gradient's largest entry; the one on the loss's relative decrease is a hundredth of it. With a
tenth of it the fit takes twice as long, and mIoU changes by less than .001."""
SEARCH_TOLERANCE = 1e-3
"""Of the candidates' fits."""
MAX_SEARCH_PIXELS = 10_000
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
        of_type = [torch.from_numpy(x.astype(features.dtype)) for x in (self.bias - self.mean @ weight, weight)]
        logits = torch.addmm(of_type[0], torch.from_numpy(features), of_type[1])
        return self.classes[logits.numpy().argmax(1)]  # numpy's argmax is the first of several, torch's is any


def fit_linear_probe(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    tiles: Int[Array, " n"],
    check: Check = proceed,
    device: torch.device = CPU,
) -> LinearProbe:
    """A probe with the penalty that scores best on a held-out quarter of the tiles, fitted on all pixels.

    Whole tiles are held out because pixels of one tile are too similar to validate each other. `labels` must have at
    least two classes.
    """
    held_out = np.unique(tiles, return_inverse=True)[1].reshape(-1) % 4 == 0
    best = WEIGHT_DECAYS[len(WEIGHT_DECAYS) // 2]
    if held_out.any() and len(np.unique(labels[~held_out])) > 1:
        step = max(int((~held_out).sum()) // MAX_SEARCH_PIXELS, 1)
        training = np.flatnonzero(~held_out)[::step]
        candidates = logistic_regressions(
            features[training], labels[training], WEIGHT_DECAYS, check, device, SEARCH_TOLERANCE
        )
        best = max(candidates, key=lambda probe: (probe.predict(features[held_out]) == labels[held_out]).mean()).decay
    return next(logistic_regressions(features, labels, [best], check, device))


def logistic_regressions(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    decays: Sequence[float],
    check: Check = proceed,
    device: torch.device = CPU,
    tolerance: float = TOLERANCE,
) -> Iterator[LinearProbe]:
    """For each decay the minimum of the mean cross-entropy plus `decay / 2 · |weight|^2` (the bias is free).

    L-BFGS, preconditioned: in its coordinates the covariance of the standardised features plus the penalty is the
    identity. A network's features are so correlated that without this it takes thousands of steps. Each fit begins
    where the one before ended.
    """
    standard = Standardised.by(features)
    x = standard.tensor(features, device)
    n, d = x.shape
    variance, axes = np.linalg.eigh((x.T @ x).double().cpu().numpy() / n)
    rotated = x @ torch.from_numpy(axes.astype(np.float32)).to(device)
    by_class = rotated.T.contiguous()  # softmax over the rows of few classes is slow, over columns it is not
    classes, truth = np.unique(labels, return_inverse=True)
    true_class = torch.from_numpy(truth.reshape(1, -1)).to(device)
    ones = torch.ones_like(true_class, dtype=torch.float32)

    def loss_and_gradient(weight: Float[Array, "d1 c"]) -> tuple[float, Float[Array, "d1 c"]]:
        """Of the mean cross-entropy; the last row of the weight is the bias."""
        check()
        w = torch.from_numpy(weight.astype(np.float32)).to(device)
        log_share = torch.log_softmax(torch.addmm(w[d:].T, w[:d].T, by_class), 0)
        loss = -float(log_share.gather(0, true_class).mean(dtype=torch.float64))
        error = log_share.exp_().scatter_add_(0, true_class, -ones)
        gradient = torch.cat([(error @ rotated).T, error.sum(1)[None]])
        return loss, gradient.double().cpu().numpy() / n

    weight = np.zeros((d + 1, len(classes)))
    for decay in decays:
        # Softmax has a curvature of 1/4 at most. Curvatures are about 1 in these coordinates, so that the gradient's
        # entries are distances from the minimum.
        scale = np.append(1 / np.sqrt(np.maximum(variance, 0) / 4 + decay + 1e-8), 1)[:, None]

        def penalised(flat: Float[Array, " _"], scale: Array = scale, decay: float = decay) -> tuple[float, Array]:
            w = flat.reshape(d + 1, -1) * scale
            loss, gradient = loss_and_gradient(w)
            gradient[:d] += decay * w[:d]
            return loss + decay / 2 * float((w[:d] ** 2).sum()), (gradient * scale).ravel()

        fit = minimize(
            penalised,
            (weight / scale).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MAX_ITERATIONS, "gtol": tolerance, "ftol": tolerance * 1e-2},
        )
        weight = fit.x.reshape(d + 1, -1) * scale
        converged = fit.nit < MAX_ITERATIONS
        yield LinearProbe(classes, *standard, axes @ weight[:d], weight[d], decay, converged)
