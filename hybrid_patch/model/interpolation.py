"""Interpolation of fine tokens between coarse ones.

A fine token is a weighted sum of coarse cells around it, by weights that depend only on its subpixel: a small matrix
`[f^2 subpixels, neighbours]` serves all cells. `bilinear` has the 3 × 3 cells around, and the numbers of
`F.interpolate(mode="bilinear", align_corners=False)`: edges are repeated. `nearest` has the cell of the subpixel alone.
"""

import functools
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Interpolation = Literal["bilinear", "nearest"]


def cells_aside(interpolation: Interpolation, factor: int) -> int:
    """How many cells to each side of its own a fine token is made of."""
    return 0 if factor == 1 or interpolation == "nearest" else 1


@functools.lru_cache(maxsize=64)
def interpolation_weights(
    interpolation: Interpolation, factor: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "subpixels neighbours"]:
    """The weights of the cells around, for every subpixel, both row by row: `[f^2, 9]`, or `[f^2, 1]` of none aside."""
    if not cells_aside(interpolation, factor):
        return torch.ones(factor**2, 1, dtype=dtype, device=device)
    offset = (torch.arange(factor, dtype=torch.float64) + 0.5) / factor - 0.5
    side = torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], dim=1)
    return torch.einsum("ia,jb->ijab", side, side).reshape(factor**2, 9).to(device, dtype)


@functools.lru_cache(maxsize=64)
def neighbouring_cells(
    grid: tuple[int, int], rest: int, aside: int, device: torch.device
) -> Int[Tensor, "cells neighbours"]:
    """The flat indices of the cells up to `aside` away from each, in its own image of `[h, w, rest]`, row by row."""
    h, w = grid
    steps = torch.arange(-aside, aside + 1)
    rows = (torch.arange(h)[:, None] + steps).clamp(0, h - 1)[:, None, None, :, None]
    columns = (torch.arange(w)[:, None] + steps).clamp(0, w - 1)[None, :, None, None, :]
    image = torch.arange(rest)[:, None, None]
    return ((rows * w + columns) * rest + image).reshape(h * w * rest, len(steps) ** 2).to(device)


def repeat_cells(values: Tensor, factor: int) -> Tensor:
    """`[B, h, w, ...]` → `[B, h f, w f, ...]` by nearest neighbour, so that integers and masks keep their values."""
    return values if factor == 1 else values.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
