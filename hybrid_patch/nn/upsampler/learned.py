"""Upsampling by transposed convolutions in stages, with an exit after each."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.tokens import FineTokens, TokenGrid, repeat_cells


def prime_factors(number: int) -> Iterator[int]:
    """The prime factors of a whole number, ascending: 8 → 2, 2, 2."""
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            yield divisor
            number //= divisor
        divisor += 1


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

    There is a stage for each prime factor of the largest factor, each half as wide as the one before. A smaller factor
    leaves after fewer stages. The exit of a stage is linear and starts at zero: a stage that a curriculum has just
    reached adds nothing yet, and the exit is the basis V of a factored detail, so that no D-wide tensor is made.
    """

    def __init__(self, width: int, first_width: int, largest_factor: int) -> None:
        super().__init__()
        self.factors = tuple(prime_factors(largest_factor))
        widths = [max(first_width >> stage, 8) for stage in range(len(self.factors))]
        self.stages = nn.ModuleList(
            TransposedConvolution(i, o, side)
            for i, o, side in zip([width, *widths], widths, self.factors, strict=False)
        )
        self.exits = nn.ParameterList(torch.zeros(o, width) for o in widths)

    def forward(self, grid: TokenGrid, factor: int) -> FineTokens:
        """Raises ValueError for a factor that is no product of the first stages."""
        if factor == 1:
            return FineTokens(grid.tokens, grid.mask, 1)
        detail = torch.where(grid.mask[..., None], grid.tokens, 0)
        reached = 1
        for side, stage, basis in zip(self.factors, self.stages, self.exits, strict=True):
            detail = F.gelu(stage(detail))
            reached *= side
            if reached == factor:
                detail = torch.where(repeat_cells(grid.mask, factor)[..., None], detail, 0)
                return FineTokens(grid.tokens, grid.mask, factor, detail, basis)
        raise ValueError(f"factor {factor} is no product of the first of the stages {self.factors}")
