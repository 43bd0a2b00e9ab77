"""Upsampling by interpolation between the tokens under the mask; nothing to learn."""

from hybrid_patch.data.batch import Guide
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid
from hybrid_patch.model.upsampler import TokenSpec, Upsampler


class Bilinear(Upsampler):
    """The baseline of the learned upsamplers: `fine = U(P m) / U(m)`."""

    def __init__(self, tokens: TokenSpec) -> None:
        super().__init__()

    def forward(self, grid: TokenGrid, factor: int, positions: Positions, guide: Guide | None = None) -> FineTokens:
        """Any whole factor; see `FineTokens` for the arithmetic."""
        return FineTokens(grid, factor, positions)
