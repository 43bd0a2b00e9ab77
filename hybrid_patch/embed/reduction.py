"""Reduce embeddings to a few numbers per pixel by principal components or a random projection; quantise to int8."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hybrid_patch.embed.options import DType
from hybrid_patch.model.pooling import Projection

Array = np.ndarray
Reduce = Literal["pca", "random", "none"]

MARGIN = 1.1
"""The range of int8 relative to that of the sample; values outside it are clipped."""
INT8_MAX = 127
"""-128 means 'no data'."""


class Basis(NamedTuple):
    """The numbers kept of an embedding x: `y = x W + b`, as int8 `round((y - offset) / scale)`.

    W holds principal components, random orthogonal directions, or with `none` the unit matrix; `share` is of variance.
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
        word = {"pca": "pc", "random": "random", "none": "dim"}[self.kind]
        digits = max(len(str(len(self.bias))), 2)
        return [f"{word}{i:0{digits}d} ({share:.2g} % of variance)" for i, share in enumerate(100 * self.share, 1)]

    def as_lists(self) -> dict[str, Any]:
        """For JSON; it keeps every digit."""
        return {"kind": self.kind} | {name: getattr(self, name).tolist() for name in self._fields[1:]}

    @classmethod
    def from_lists(cls, lists: Mapping[str, Any]) -> "Basis":
        return cls(lists["kind"], *(np.array(lists[name], np.float64) for name in cls._fields[1:]))


def rounded(numbers: Float[Tensor, "*n k"], dtype: DType) -> Shaped[Tensor, "*n k"]:
    """Numbers as a map of this type stores them; those of int8 come in its steps. May change its argument."""
    if dtype == "int8":
        return numbers.round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
    return numbers.half().float() if dtype == "float16" else numbers


def fit_basis(x: Float[Array, "n d"], kind: Reduce, dims: int) -> Basis:
    """A basis of k=`dims` numbers, from a sample of embeddings."""
    width, exact = x.shape[1], x.astype(np.float64)
    if kind == "pca":
        _, directions = np.linalg.eigh(np.cov(exact, rowvar=False, bias=True).reshape(width, width))
        weight = directions[:, ::-1][:, :dims]
        # The sign of a direction is arbitrary: its largest entry is made positive.
        weight = weight * np.sign(weight[np.abs(weight).argmax(0), np.arange(dims)])
        bias = -exact.mean(0) @ weight
    elif kind == "random":
        weight, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(width, dims)))
        bias = np.zeros(dims)
    else:
        weight, bias = np.eye(width), np.zeros(width)
    y = exact @ weight + bias
    low, high, total = y.min(0), y.max(0), exact.var(0).sum()
    half = (high - low) / 2 * MARGIN
    share = y.var(0) / total if total > 0 else np.zeros_like(low)
    return Basis(kind, weight, bias, share, np.where(half > 0, half, 1.0) / INT8_MAX, (low + high) / 2)
