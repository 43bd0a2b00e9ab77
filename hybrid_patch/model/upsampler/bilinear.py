"""Upsampling by interpolation between the tokens under the mask; nothing to learn."""

from torch import nn

from hybrid_patch.data.batch import Guide
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid


class Bilinear(nn.Module):
    """The control that learned upsamplers are held against: `fine = U(P m) / U(m)`."""

    def forward(self, grid: TokenGrid, factor: int, positions: Positions, guide: Guide | None = None) -> FineTokens:
        """Any whole factor; see `FineTokens` for the arithmetic."""
        return FineTokens(grid, factor, positions)
