"""Reduce embeddings to a few numbers per pixel by principal components or a random projection; quantise to int8."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hybrid_patch.embed.options import DType
from hybrid_patch.embed.per_pixel import Projection

Array = np.ndarray
Reduce = Literal["pca", "random", "none"]

MARGIN = 1.1
"""The range of int8 relative to that of the sample; values outside it are clipped."""
INT8_MAX = 127
"""-128 means 'no data'."""


class Basis(NamedTuple):
    """The numbers kept of an embedding `x` of width D: `y = x W + b`, k numbers; in int8 `round((y - offset) / scale)`.

    Attributes:
        kind: of W: principal components, random orthogonal directions, or none (the unit matrix, which keeps all of x).
        weight, bias: W `[D, k]` and b `[k]`.
        share: `[k]` the share of the sample's variance.
        scale, offset: `[k]` of int8.
    """

    kind: Reduce
    weight: Float[Array, "d k"]
    bias: Float[Array, " k"]
    share: Float[Array, " k"]
    scale: Float[Array, " k"]
    offset: Float[Array, " k"]

    def projection(self, int8: bool, device: torch.device) -> Projection | None:
        """The linear map, for int8 in its steps; None if it is the identity."""
        if self.kind == "none" and not int8:
            return None
        weight, bias = self.weight, self.bias
        if int8:
            weight, bias = weight / self.scale, (bias - self.offset) / self.scale
        return Projection(*(torch.from_numpy(x.astype(np.float32)).to(device) for x in (weight, bias)))

    def descriptions(self) -> list[str]:
        """The description of each band."""
        word = {"pca": "pc", "random": "random", "none": "dim"}[self.kind]
        digits = max(len(str(len(self.bias))), 2)
        return [f"{word}{i:0{digits}d} ({share:.2g} % of variance)" for i, share in enumerate(100 * self.share, 1)]

    def as_lists(self) -> dict[str, Any]:
        """For JSON; it keeps every digit."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in self._asdict().items()
        }

    @classmethod
    def from_lists(cls, lists: Mapping[str, Any]) -> "Basis":
        """The basis of `as_lists`."""
        return cls(lists["kind"], *(np.array(lists[name], np.float64) for name in cls._fields[1:]))


def rounded(numbers: Float[Tensor, "*n k"], dtype: DType) -> Shaped[Tensor, "*n k"]:
    """Numbers as a map of this type stores them; those of int8 come in its steps. May change its argument."""
    if dtype == "int8":
        return numbers.round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
    return numbers.half().float() if dtype == "float16" else numbers


def fit_basis(x: Float[Array, "n d"], kind: Reduce, dims: int, seed: int = 0) -> Basis:
    """A basis of k=`dims` numbers, from a sample of embeddings."""
    width = x.shape[1]
    exact = x.astype(np.float64)
    mean = exact.mean(0)
    if kind == "pca":
        _, directions = np.linalg.eigh(np.cov(exact, rowvar=False, bias=True).reshape(width, width))
        weight = directions[:, ::-1][:, :dims]
        # The sign of a direction is arbitrary: its largest entry is made positive.
        weight = weight * np.sign(weight[np.abs(weight).argmax(0), np.arange(dims)])
        bias = -mean @ weight
    elif kind == "random":
        weight, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, dims)))
        bias = np.zeros(dims)
    else:
        weight, bias = np.eye(width), np.zeros(width)
    y = exact @ weight + bias
    low, high = y.min(0), y.max(0)
    half = (high - low) / 2 * MARGIN
    total = exact.var(0).sum()
    share = y.var(0) / total if total > 0 else np.zeros(y.shape[1])
    return Basis(kind, weight, bias, share, np.where(half > 0, half, 1.0) / INT8_MAX, (low + high) / 2)
