"""Means and covariances of rows, added up."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_VARIANCE = 1e-8


class Correlation(NamedTuple):
    """How k numbers vary: each one's mean and deviation; their correlation's eigenvalues, ascending, and its axes."""

    mean: Float[Tensor, " k"]
    deviation: Float[Tensor, " k"]
    variance: Float[Tensor, " k"]
    axes: Float[Tensor, "k k"]


class CovarianceSum:
    """Rows of k numbers, added up in float64."""

    def __init__(self, k: int) -> None:
        self.count = 0
        self._sum = torch.zeros(k, dtype=torch.float64)
        self._products = torch.zeros(k, k, dtype=torch.float64)

    def add(self, rows: Float[Tensor, "n k"]) -> None:
        rows = rows.double()
        self.count += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.mT @ rows

    def covariance(self) -> tuple[Float[Tensor, " k"], Float[Tensor, "k k"]]:
        """Mean and covariance. There must be a row."""
        mean = self._sum / self.count
        return mean, self._products / self.count - mean[:, None] * mean

    def correlation(self) -> Correlation:
        """There must be a row."""
        mean, covariance = self.covariance()
        deviation = covariance.diagonal().clamp(min=LEAST_VARIANCE).sqrt()
        variance, axes = torch.linalg.eigh(covariance / (deviation[:, None] * deviation))
        return Correlation(mean, deviation, variance.clamp(min=0), axes)
