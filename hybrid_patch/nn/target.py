"""Targets: frozen random projections of the pixels, at the output patch size."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.data.modality import Modality
from hybrid_patch.nn.patch_embed import patches

BIAS_STD = 0.1
MIDDLE = 0.5
"""The mean of normalised values."""


class TargetKeys(NamedTuple):
    """Unit-length targets, in as few numbers as their products with predictions need.

    A target is linear in its pixels, `t = W x + b`, so `p · t = (p [W b]) · [x 1]`. Where `x` is shorter than `t`,
    `projection` holds the `[W b]` of all band sets side by side and `vectors` the `[x 1] / |t|`, with zeros at the
    columns of the other band sets. Where it is not (large output patches), `vectors` are the targets themselves and
    `projection` is None. Either way `p · t / |t| = (p projection) · vector`.
    """

    projection: Float[Tensor, "d k"] | None
    vectors: Float[Tensor, "b h w t s k"]


class RandomTargets(nn.Module):
    """`t = W x + b` for every modality, band set and output patch size, drawn once and never trained.

    W `[D, C ps^2]` is normal with variance `1 / (C ps^2)`, b normal with standard deviation 0.1. Each projection is
    drawn from its own seed, so that adding a modality does not change the targets of the others. They are buffers: a
    checkpoint holds them.

    With `centre` the x of a continuous modality is the normalised value less its mean, one half. Without it all targets
    share one large component.
    """

    def __init__(
        self, modalities: Mapping[str, Modality], width: int, patch_sizes: Iterable[int], seed: int, centre: bool
    ) -> None:
        super().__init__()
        self.centre = {
            name: MIDDLE if centre and modality.kind == "continuous" else 0.0 for name, modality in modalities.items()
        }
        self.channels = {name: modality.band_set_channels for name, modality in modalities.items()}
        self.width = width
        for name, band_sets in self.channels.items():
            for s, channels in enumerate(band_sets):
                for patch_size in set(patch_sizes):
                    rng = torch.Generator().manual_seed(_seed(seed, name, s, patch_size))
                    n = len(channels) * patch_size**2
                    weight = torch.randn(n, width, generator=rng) / n**0.5
                    bias = torch.randn(1, width, generator=rng) * BIAS_STD
                    self.register_buffer(_buffer(name, s, patch_size), torch.cat([weight, bias]))

    def projection(self, name: str, band_set: int, patch_size: int) -> Float[Tensor, "n d"]:
        """`[W b]` transposed: `[C ps^2 + 1, D]`, the bias in the last row."""
        return self.get_buffer(_buffer(name, band_set, patch_size))

    def forward(
        self, name: str, pixels: Float[Tensor, "b height width t c"], patch_size: int
    ) -> list[Float[Tensor, "b h w t d"]]:
        """The targets, D wide, one tensor per band set."""
        return [
            inputs @ self.projection(name, s, patch_size)
            for s, inputs in enumerate(self._inputs(name, pixels, patch_size))
        ]

    def keys(self, name: str, pixels: Float[Tensor, "b height width t c"], patch_size: int) -> TargetKeys:
        """The unit-length targets of a modality's pixels, in the fewest numbers."""
        inputs = self._inputs(name, pixels, patch_size)
        maps = [self.projection(name, s, patch_size) for s in range(len(inputs))]
        if sum(map(len, maps)) > self.width:
            targets = torch.stack([x @ w for x, w in zip(inputs, maps, strict=True)], dim=4)
            return TargetKeys(None, targets / targets.norm(dim=-1, keepdim=True))
        vectors = []
        for s, (x, w) in enumerate(zip(inputs, maps, strict=True)):
            unit = x / ((x @ (w @ w.mT)) * x).sum(-1, keepdim=True).sqrt()
            vectors.append(
                torch.cat(
                    [unit if i == s else unit.new_zeros(*unit.shape[:-1], len(m)) for i, m in enumerate(maps)], -1
                )
            )
        return TargetKeys(torch.cat(maps).mT, torch.stack(vectors, dim=4))

    def _inputs(self, name: str, pixels: Tensor, patch_size: int) -> list[Float[Tensor, "b h w t n"]]:
        """`[x 1]` per band set."""
        parts = [
            patches(pixels[..., list(channels)] - self.centre[name], patch_size) for channels in self.channels[name]
        ]
        return [torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1) for x in parts]


def _buffer(name: str, band_set: int, patch_size: int) -> str:
    return f"{name}_set{band_set}_ps{patch_size}"


def _seed(seed: int, name: str, band_set: int, patch_size: int) -> int:
    digest = hashlib.sha256(f"{seed}/{name}/{band_set}/{patch_size}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
