import functools
import math
from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.model.tokens import Positions

REFERENCE_GSD = 10.0
"""Metres per unit of the spatial encoding."""


def sine(position: Real[Tensor, " n"], width: int) -> Float[Tensor, "n width"]:
    """Sine and cosine of positions at `width / 2` frequencies from 1 to 1/10000 (Vaswani et al. 2017)."""
    frequency = 10000.0 ** (-torch.arange(width // 2, device=position.device, dtype=torch.float64) / (width / 2))
    angle = position.double()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def cycle(length: int, width: int) -> Float[Tensor, "length width"]:
    """Positions on a circle of `length`: sine and cosine of its harmonics 1 to length / 2, repeated."""
    harmonic = torch.arange(width // 2) % (length // 2) + 1
    angle = torch.arange(length)[:, None] * harmonic * (2 * math.pi / length)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@functools.lru_cache(maxsize=64)
def ground_encoding(grid: tuple[int, int], step: float, width: int, device: torch.device) -> Float[Tensor, "h w width"]:
    """Sines of a grid's rows in the first half of the width, of its columns in the second; a cell is `step` × 10 m."""
    rows, columns = (sine((torch.arange(n, device=device) + 0.5) * step, width // 2) for n in grid)
    return torch.cat([rows[:, None].expand(*grid, -1), columns[None].expand(*grid, -1)], dim=-1)


@functools.lru_cache(maxsize=64)
def series_encoding(length: int, width: int, device: torch.device) -> Float[Tensor, "length width"]:
    return sine(torch.arange(length, device=device), width)


class Encodings(nn.Module):
    """The composite encoding of tokens, D wide, in quarters: band set (learned), time position, month, space (sines).

    Space is the centre of a patch on the ground, in units of 10 m, so that all patch sizes and sample distances share
    one map. Time position and month of a static modality are zeros.
    """

    def __init__(self, modalities: Mapping[str, Modality], width: int) -> None:
        super().__init__()
        self.quarter = width // 4
        self.modalities = dict(modalities)
        self.band_set = nn.ParameterDict(
            {name: torch.randn(len(m.band_sets), self.quarter) * 0.02 for name, m in modalities.items()}
        )
        self.register_buffer("months", cycle(12, self.quarter), persistent=False)

    def forward(
        self, name: str, grid: tuple[int, int], patch_size: int, timestamps: Int[Tensor, "b t 3"]
    ) -> Float[Tensor, "b h w _ s d"]:
        """The encodings of all tokens of a modality, on a grid `(h, w)`; timestamps are day, month (0-11), year."""
        modality, band_set = self.modalities[name], self.band_set[name]
        device, dtype = band_set.device, band_set.dtype
        b, t = timestamps.shape[:2] if modality.temporal else (len(timestamps), 1)
        shape = (b, *grid, t, len(band_set), self.quarter)
        if modality.temporal:
            order = series_encoding(t, self.quarter, device)[None, None, None, :, None]
            month = self.months[timestamps[..., 1]][:, None, None, :, None]  # type: ignore[index]
        else:
            order = month = torch.zeros(1, device=device)
        space = ground_encoding(grid, patch_size * modality.gsd / REFERENCE_GSD, self.quarter, device)
        parts = (band_set, order, month, space[None, :, :, None, None])
        return torch.cat([part.to(dtype).expand(shape) for part in parts], dim=-1)

    def fine(
        self,
        name: str,
        grid: tuple[int, int],
        sizes: PatchSizes,
        positions: Positions,
        timestamps: Int[Tensor, "b t 3"],
    ) -> Float[Tensor, "bv n p d"]:
        """The encodings of fine tokens: those of their coarse tokens, but for the position on the ground."""
        coarse = positions.cells.gather(self(name, grid, sizes.processing, timestamps).flatten(1, 4))
        (h, w), factor = grid, sizes.factor
        step = sizes.processing / factor * self.modalities[name].gsd / REFERENCE_GSD
        ground = ground_encoding((h * factor, w * factor), step, self.quarter, coarse.device)
        ground = rearrange(ground, "(h i) (w j) d -> (h w) (i j) d", h=h, w=w)[:, positions.subpixels]
        cells = positions.cells.index // (positions.cells.length // (h * w))
        space = ground.index_select(0, cells.flatten()).unflatten(0, cells.shape).to(coarse.dtype)
        rest = coarse[:, :, None, : 3 * self.quarter].expand(-1, -1, space.shape[2], -1)
        return torch.cat([rest, space], dim=-1)
