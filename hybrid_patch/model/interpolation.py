"""Bilinear interpolation of fine tokens between coarse ones.

A fine token is a weighted sum of the 3 × 3 coarse cells around it, by weights that depend only on its subpixel: a small
matrix `[f^2 subpixels, 9 neighbours]` serves all cells. The numbers are those of `F.interpolate(mode="bilinear",
align_corners=False)`: edges are repeated.
"""

import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor


@functools.lru_cache(maxsize=64)
def bilinear_weights(factor: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "subpixels neighbours"]:
    """`[f^2, 9]`: bilinear weights of the 3 × 3 cells, for every subpixel, both row by row; `[1, 1]` for factor 1."""
    if factor == 1:
        return torch.ones(1, 1, dtype=dtype, device=device)
    offset = (torch.arange(factor, dtype=torch.float64) + 0.5) / factor - 0.5
    side = torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], dim=1)
    return torch.einsum("ia,jb->ijab", side, side).reshape(factor**2, 9).to(device, dtype)


@functools.lru_cache(maxsize=64)
def neighbouring_cells(
    grid: tuple[int, int], rest: int, factor: int, device: torch.device
) -> Int[Tensor, "cells neighbours"]:
    """The flat indices of each cell's neighbours in its own image of `[h, w, rest]`, in `bilinear_weights`' order."""
    h, w = grid
    steps = torch.tensor([0]) if factor == 1 else torch.tensor([-1, 0, 1])
    rows = (torch.arange(h)[:, None] + steps).clamp(0, h - 1)[:, None, None, :, None]
    columns = (torch.arange(w)[:, None] + steps).clamp(0, w - 1)[None, :, None, None, :]
    image = torch.arange(rest)[:, None, None]
    return ((rows * w + columns) * rest + image).reshape(h * w * rest, len(steps) ** 2).to(device)


def repeat_cells(values: Tensor, factor: int) -> Tensor:
    """`[B, h, w, ...]` → `[B, h f, w f, ...]` by nearest neighbour, so that integers and masks keep their values."""
    return values if factor == 1 else values.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
