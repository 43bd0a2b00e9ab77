"""The numbers per pixel that are kept: principal components or a random projection, and the steps of int8."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from hybrid_patch.data.crops import Crop
from hybrid_patch.embed.per_pixel import Projection
from hybrid_patch.embed.scene import SceneReader
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.embed.workers import workers
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_bytes

Array = np.ndarray
Reduce = Literal["pca", "random", "none"]

SHARE, FEWEST, WINDOWS = 1 / 8, 8, 64
"""Of a scene's windows, which share is in a sample, but how many at least and at most."""
PIXELS, TOGETHER = 32_768, 4
"""Pixels of a sample, and windows of it that are embedded together."""
MARGIN = 1.1
"""By how much the range of int8 is wider than that of the sample; what lies outside is cut off."""
LARGEST = 127
"""Of int8; -128 means 'no data'."""


class Basis(NamedTuple):
    """What is kept of an embedding `x` of width D: `y = x W + b`, k numbers; in int8 `round((y - offset) / scale)`.

    Attributes:
        kind: of W: principal components, random orthogonal directions, or all of `x` (then W is the unit matrix).
        weight, bias: W `[D, k]` and b `[k]`.
        share: `[k]` of the variance of the sample.
        scale, offset: `[k]` of int8.
    """

    kind: Reduce
    weight: Float[Array, "d k"]
    bias: Float[Array, " k"]
    share: Float[Array, " k"]
    scale: Float[Array, " k"]
    offset: Float[Array, " k"]

    def projection(self, steps: bool, device: torch.device) -> Projection | None:
        """The linear map, with `steps` in units of int8's. None: there is nothing to be done."""
        if self.kind == "none" and not steps:
            return None
        weight, bias = self.weight, self.bias
        if steps:
            weight, bias = weight / self.scale, (bias - self.offset) / self.scale
        return Projection(*(torch.from_numpy(x.astype(np.float32)).to(device) for x in (weight, bias)))

    def descriptions(self) -> list[str]:
        """What each number is, in words."""
        word = {"pca": "pc", "random": "random", "none": "dim"}[self.kind]
        digits = max(len(str(len(self.bias))), 2)
        return [f"{word}{i:0{digits}d} ({share:.2g} % of variance)" for i, share in enumerate(100 * self.share, 1)]

    def save(self, path: Path) -> None:
        """Into a file, whole or not at all."""
        arrays = {name: value for name, value in self._asdict().items() if name != "kind"}
        buffer = io.BytesIO()
        np.savez(buffer, kind=np.array(self.kind), **arrays)
        write_bytes(path, buffer.getvalue())


def load_basis(path: Path) -> Basis:
    """What `save` wrote."""
    with np.load(path) as arrays:
        kind: Reduce = str(arrays["kind"])  # type: ignore[assignment]
        return Basis(kind, *(arrays[name] for name in Basis._fields[1:]))


def sample(model: TrainedModel, scene: SceneReader) -> tuple[Float[Array, "n d"], Float[Array, "m side side d"]]:
    """Embeddings of pixels drawn from windows spread over the scene, and of a few whole windows.

    Raises InputError if nothing was measured anywhere.
    """
    rng = np.random.default_rng(0)
    side = model.side
    there = -(-scene.height // side) * -(-scene.width // side)
    count = min(max(round(there * SHARE), min(FEWEST, there)), WINDOWS)
    rows: list[Float[Array, "n d"]] = []
    whole: list[Float[Array, "m side side d"]] = []

    def embedded(crops: Sequence[Crop]) -> Float[Array, "m side side d"]:
        return model.embed_crops(crops, absent=scene.absent).float().cpu().numpy()

    with workers(model.device) as pool:
        found = list(scene.windows_with_data(side, count))
        drawn = [found[start : start + TOGETHER] for start in range(0, len(found), TOGETHER)]
        for crops, dense in zip(drawn, pool.map(embedded, drawn), strict=True):
            whole = whole or [dense]
            for crop, image in zip(crops, dense, strict=True):
                seen = np.flatnonzero(crop.any_valid(list(crop.valid)))
                rows.append(
                    image.reshape(-1, image.shape[-1])[
                        rng.permutation(seen)[: max(PIXELS // count * len(seen) // side**2, 1)]
                    ]
                )
    if not rows:
        raise InputError(f"{scene.grid.path}: nothing but 'no data' in the whole scene")
    return np.concatenate(rows), whole[0]


def fit(x: Float[Array, "n d"], kind: Reduce, dims: int, seed: int = 0) -> Basis:
    """A basis of k=`dims` numbers, from a sample of embeddings."""
    width = x.shape[1]
    exact = x.astype(np.float64)
    mean = exact.mean(0)
    if kind == "pca":
        _, directions = np.linalg.eigh(np.cov(exact, rowvar=False, bias=True).reshape(width, width))
        weight = directions[:, ::-1][:, :dims]
        # Either sign of a direction is as good: the larger part of it is made positive.
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
    return Basis(kind, weight, bias, share, np.where(half > 0, half, 1.0) / LARGEST, (low + high) / 2)
