import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config.field_types import Width
from hybrid_patch.data.batch import Guide
from hybrid_patch.model.tokens import FineTokens
from hybrid_patch.model.upsampler import TokenSpec, Upsampler


class Subpixel(Upsampler):
    """Interpolation plus the detail `gelu(W_s · norm(token) + b_s)`, of low rank (Shi et al. 2016, ESPCN).

    Every subpixel s of a cell has its own `W_s [r, D]`. All start alike (Aitken et al. 2017, "ICNR"), and a smaller
    factor uses means over blocks of subpixels: finer ones start from what their block has learned.
    """

    def __init__(self, tokens: TokenSpec, *, rank: Width) -> None:
        super().__init__()
        width, largest = tokens.width, max(tokens.factors)
        self.largest = largest
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, width)).repeat(largest**2, 1, 1))
        self.bias = nn.Parameter(torch.zeros(largest**2, rank))
        self.basis = nn.Parameter(torch.zeros(rank, width))
        self.requires_grad_(largest > 1)

    @staticmethod
    def supports(factor: int, largest: int) -> bool:
        """Divisors of the largest."""
        return largest % factor == 0

    def detail(self, fine: FineTokens, guide: Guide | None) -> tuple[Tensor, Tensor]:
        """Raises ValueError for a factor that does not divide the largest."""
        factor, subpixels = fine.factor, fine.positions.subpixels
        if self.largest % factor:
            raise ValueError(f"factor {factor}: does not divide the largest, {self.largest}")
        weight, bias = (self._of(x, factor).index_select(0, subpixels) for x in (self.weight, self.bias))
        detail = F.linear(self.norm(fine.cell_tokens()), weight.flatten(0, 1), bias.flatten())
        return F.gelu(detail).unflatten(-1, (len(subpixels), -1)), self.basis

    def _of(self, values: Float[Tensor, "subpixels *d"], factor: int) -> Float[Tensor, "_ *d"]:
        """The parameters for a factor's subpixels: means over blocks of those of the largest factor."""
        block = self.largest // factor
        return values if block == 1 else values.unflatten(0, (factor, block) * 2).mean((1, 3)).flatten(0, 1)
