"""Upsampling by transposed convolutions in stages, with exits on the way."""

import itertools
import operator
from collections.abc import Collection

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.curriculum import prime_factors
from hybrid_patch.tokens import FineTokens, TokenGrid, repeat_cells

SMALLEST_WIDTH = 8


class TransposedConvolution(nn.Module):
    """A transposed convolution whose stride is its kernel's side, on channels-last grids of any number of axes.

    Without overlap it is a linear map of each token to k^2 outputs: no token sees its neighbour, so nothing hidden can
    bleed into what is visible.
    """

    def __init__(self, width_in: int, width_out: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.linear = nn.Linear(width_in, width_out * side**2)

    def forward(self, x: Float[Tensor, "b h w *ts i"]) -> Float[Tensor, "b hk wk *ts o"]:
        """`[B, h, w, ..., i]` → `[B, h k, w k, ..., o]`."""
        return rearrange(self.linear(x), "b h w ... (k l o) -> b (h k) (w l) ... o", k=self.side, l=self.side)


class Learned(nn.Module):
    """Interpolation plus a detail made by transposed convolutions (8→4→2→1: three stages of two).

    There is a stage for each prime factor of the largest factor, each half as wide as the one before, and an exit
    behind each stage at which one of the factors in use is reached. Exits are linear, start at zero, and add up: when a
    curriculum reaches its next factor, the new exit adds nothing yet to what the ones before it have learned. They are
    the basis V of a factored detail, so that no D-wide tensor is made.
    """

    def __init__(self, width: int, first_width: int, factors: Collection[int]) -> None:
        super().__init__()
        sides = tuple(prime_factors(max(factors)))
        widths = [max(first_width >> stage, SMALLEST_WIDTH) for stage in range(len(sides))]
        self.stages = nn.ModuleList(
            TransposedConvolution(i, o, side) for i, o, side in zip([width, *widths], widths, sides, strict=False)
        )
        self.reached = tuple(itertools.accumulate(sides, operator.mul))
        self.exits = nn.ParameterDict(
            {
                str(reached): torch.zeros(o, width)
                for reached, o in zip(self.reached, widths, strict=True)
                if reached in factors
            }
        )

    def forward(self, grid: TokenGrid, factor: int) -> FineTokens:
        """Raises ValueError for a factor that was not named, or is no product of the first stages."""
        if factor == 1:
            return FineTokens(grid.tokens, grid.mask, 1)
        if str(factor) not in self.exits:
            raise ValueError(f"factor {factor}: there is no exit for it, only for {list(self.exits)}")
        hidden = torch.where(grid.mask[..., None], grid.tokens, 0)
        details, basis = [], []
        for reached, stage in zip(self.reached, self.stages, strict=True):
            hidden = F.gelu(stage(hidden))
            if str(reached) in self.exits:
                details.append(repeat_cells(hidden, factor // reached))
                basis.append(self.exits[str(reached)])
            if reached == factor:
                break
        detail = torch.where(repeat_cells(grid.mask, factor)[..., None], torch.cat(details, dim=-1), 0)
        return FineTokens(grid.tokens, grid.mask, factor, detail, torch.cat(basis))
