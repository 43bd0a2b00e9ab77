"""Targets: frozen random projections of patches of pixels, or means of those of single pixels."""

import hashlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config.modality import NORMALISED_MEAN, Modality

BIAS_STD = 0.1
SMALLEST_NORM = 1e-12
"""Of a mean over no pixel, which is masked."""


class TargetKeys(NamedTuple):
    """Unit-length targets, in the fewest numbers that give their products: `p · t / |t| = (p projection) · vector`.

    A target is linear in its pixels, `t = W x + b`, so `p · t = (p [W b]) · [x 1]`. Where `x` is shorter than `t`,
    `projection` is `[W b]` of all band sets, and `vectors` are `[x 1] / |t|` with zeros at other band sets' columns.
    Otherwise (large output patches) `vectors` are the targets themselves.
    """

    projection: Float[Tensor, "d k"] | None
    vectors: Float[Tensor, "b n p k"]
    code: Float[Tensor, "b n p"] | None  # equal (up to rounding) for equal targets only


class RandomTargets(nn.Module):
    """`t = W x + b` for every modality, band set and output patch size, drawn once and never trained.

    W `[D, C ps^2]` is normal with variance `1 / (C ps^2)`, b normal with standard deviation 0.1, each from its own seed
    so that modalities can be added. They are buffers, saved in checkpoints. A table `[C ps^2 + S, D]` has the W of all
    band sets, in the order of a patch's numbers (pixel by pixel), then the b.

    With `centre`, x is the normalised value of a continuous modality less its mean, one half: else all targets share
    one large component.
    """

    def __init__(
        self, modalities: Mapping[str, Modality], width: int, patch_sizes: Collection[int], seed: int, centre: bool
    ) -> None:
        super().__init__()
        self.width = width
        self.middle = {n: NORMALISED_MEAN if centre and m.kind == "continuous" else 0.0 for n, m in modalities.items()}
        longest = 0
        for name, modality in modalities.items():
            for patch_size in set(patch_sizes):
                columns = _columns(modality, patch_size)
                numbers, inputs = columns.shape[1], columns.shape[1] - len(columns)
                rng = torch.Generator().manual_seed(_seed(seed, name, patch_size))
                table = torch.randn(numbers, width, generator=rng)
                per_set = columns[:, :inputs].sum(1, keepdim=True)
                table[:inputs] /= (columns[:, :inputs] * per_set).sum(0)[:, None] ** 0.5
                table[inputs:] *= BIAS_STD
                self.register_buffer(_buffer(name, patch_size), table)
                self.register_buffer(f"{_buffer(name, patch_size)}_columns", columns, persistent=False)
                longest = max(longest, numbers)
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("direction", torch.randn(longest, generator=rng, dtype=torch.float64), persistent=False)

    def table(self, name: str, patch_size: int) -> Float[Tensor, "k d"]:
        return self.get_buffer(_buffer(name, patch_size))

    def columns(self, name: str, patch_size: int) -> Bool[Tensor, "s k"]:
        """Which numbers of `[x 1]` each band set takes."""
        return self.get_buffer(f"{_buffer(name, patch_size)}_columns")

    def inputs(
        self, name: str, patches: Float[Tensor, "b n p m"], band_set: Int[Tensor, "b n"], patch_size: int
    ) -> Float[Tensor, "b n p k"]:
        """`[x 1]` of output patches of `m = C ps^2` numbers: zeros at other band sets. Times the table, the targets."""
        columns = self.columns(name, patch_size)
        *axes, m = patches.shape
        inputs = patches.new_ones(*axes, columns.shape[1])
        torch.sub(patches, self.middle[name], out=inputs[..., :m])
        return inputs if len(columns) == 1 else inputs * columns[band_set][:, :, None]

    def keys(
        self, name: str, patches: Float[Tensor, "b n p m"], band_set: Int[Tensor, "b n"], patch_size: int, coded: bool
    ) -> TargetKeys:
        """The unit-length targets of a modality."""
        inputs = self.inputs(name, patches, band_set, patch_size)
        # One random projection of the inputs in float64, rather than of the targets: those are exactly equal.
        code = self._code(inputs.double()) if coded else None
        projection, vectors, root = self._factors(name, patch_size, inputs)
        return TargetKeys(projection, vectors / _norm(vectors, root), code)

    def mean_keys(
        self,
        name: str,
        patches: Float[Tensor, "b n p q m"],
        shares: Float[Tensor, "b n p q"],
        band_set: Int[Tensor, "b n"],
        patch_size: int,
        coded: bool,
    ) -> TargetKeys:
        """The unit-length means of the unit-length targets of q patches: exact, as means are linear in vectors."""
        inputs = self.inputs(name, patches.flatten(2, 3), band_set, patch_size).unflatten(2, shares.shape[2:])
        # Equal means need equal codes, so those are of means in float64.
        projection, vectors, root = self._factors(name, patch_size, inputs.double() if coded else inputs)
        weights = shares[..., None] / _norm(vectors, root)
        mean = (weights.mT @ vectors).squeeze(3)
        mean = mean / _norm(mean, root).clamp(min=SMALLEST_NORM)
        return TargetKeys(projection, mean.to(inputs.dtype), self._code(mean) if coded else None)

    def _factors(
        self, name: str, patch_size: int, inputs: Float[Tensor, "b n *p k"]
    ) -> tuple[Float[Tensor, "d c"] | None, Float[Tensor, "b n *p c"], Float[Tensor, "c c"] | None]:
        """`projection` and unnormalised `vectors` of `TargetKeys`, and R with `|t| = |vector R|` (None: identity)."""
        table = self.table(name, patch_size)
        if len(table) > self.width:
            return None, inputs @ table.to(inputs.dtype), None
        wide = table.double()
        root = torch.linalg.cholesky_ex(wide @ wide.mT)[0]  # R R^T = T T^T
        return table.mT, inputs, root.to(inputs.dtype)

    def _code(self, vectors: Float[Tensor, "b n p k"]) -> Float[Tensor, "b n p"]:
        """One number for each vector, equal for equal ones only."""
        return vectors @ self.get_buffer("direction")[: vectors.shape[-1]].double()


def _norm(vectors: Float[Tensor, "*n c"], root: Float[Tensor, "c c"] | None) -> Float[Tensor, "*n 1"]:
    return torch.linalg.vector_norm(vectors if root is None else vectors @ root, dim=-1, keepdim=True)


def _columns(modality: Modality, patch_size: int) -> Bool[Tensor, "s k"]:
    sets = len(modality.band_set_channels)
    channels = torch.zeros(sets, modality.channels, dtype=torch.bool)
    for s, band_set in enumerate(modality.band_set_channels):
        channels[s, list(band_set)] = True
    return torch.cat([channels.repeat(1, patch_size**2), torch.eye(sets, dtype=torch.bool)], dim=1)


def _buffer(name: str, patch_size: int) -> str:
    return f"{name}_ps{patch_size}"


def _seed(seed: int, name: str, patch_size: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{patch_size}".encode()).digest()[:8], "big") >> 1
