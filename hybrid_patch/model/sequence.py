"""Token grids of several modalities as one sequence, and back."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor


def flatten(grids: Mapping[str, Shaped[Tensor, "b _ _ _ _ *d"]]) -> Shaped[Tensor, "b n *d"]:
    """`[B, h, w, T, S, ...]` of every modality → `[B, N, ...]`, one modality after the other."""
    return torch.cat([grid.flatten(1, 4) for grid in grids.values()], dim=1)


def unflatten(
    sequence: Shaped[Tensor, "b n *d"], grids: Mapping[str, Shaped[Tensor, "b _ _ _ _"]]
) -> dict[str, Shaped[Tensor, "b _ _ _ _ *d"]]:
    """The sequence back on grids of the same shapes."""
    sizes = [math.prod(grid.shape[1:5]) for grid in grids.values()]
    parts = sequence.split(sizes, dim=1)
    return {
        name: part.unflatten(1, tuple(grid.shape[1:5])) for (name, grid), part in zip(grids.items(), parts, strict=True)
    }
