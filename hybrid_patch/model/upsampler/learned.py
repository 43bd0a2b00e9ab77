import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_patch.config.curriculum import prime_factors
from hybrid_patch.config.field_types import Width
from hybrid_patch.data.batch import Guide
from hybrid_patch.model.tokens import FineTokens
from hybrid_patch.model.upsampler import TokenSpec, Upsampler
from hybrid_patch.model.upsampler.stages import nested_index, reached_factors

SMALLEST_WIDTH = 8


class Learned(Upsampler):
    """Interpolation plus a detail made by transposed convolutions (8→4→2→1: three stages of two).

    Their stride is their kernel's side: no token sees its neighbours, so hidden tokens cannot affect visible ones.
    There is a stage for each prime factor of the largest factor, each half as wide as the one before, and an exit
    behind each stage at which one of the factors in use is reached. Exits are linear, start at zero, and add up, so
    that a curriculum's next factor starts from what the earlier exits have learned. They are the detail's basis.
    """

    def __init__(self, tokens: TokenSpec, *, width: Width) -> None:
        super().__init__()
        self.sides = tuple(prime_factors(max(tokens.factors)))
        self.widths = tuple(max(width >> stage, SMALLEST_WIDTH) for stage in range(len(self.sides)))
        shapes = zip([tokens.width, *self.widths], self.widths, self.sides, strict=False)
        self.stages = nn.ModuleList(nn.Linear(i, o * side**2) for i, o, side in shapes)
        self.reached = reached_factors(max(tokens.factors))
        exits = {f: o for f, o in zip(self.reached, self.widths, strict=True) if f in tokens.factors}
        self.exits = nn.ParameterDict({str(factor): torch.zeros(o, tokens.width) for factor, o in exits.items()})

    @staticmethod
    def supports(factor: int, largest: int) -> bool:
        """Products of the first prime factors of the largest."""
        return factor in (1, *reached_factors(largest))

    def detail(self, fine: FineTokens, guide: Guide | None) -> tuple[Tensor, Tensor]:
        """Raises ValueError for a factor that it was not built for."""
        factor = fine.factor
        if str(factor) not in self.exits:
            raise ValueError(f"factor {factor}: no exit for it, only for {list(self.exits)}")
        hidden = fine.cell_tokens()[:, :, None]
        details, basis = [], []
        for depth, (reached, stage, width) in enumerate(zip(self.reached, self.stages, self.widths, strict=True)):
            # [B, n, subpixels so far, k^2 o] → [B, n, subpixels, o]: the parts of a subpixel are consecutive.
            hidden = F.gelu(stage(hidden)).flatten(2).unflatten(2, (-1, width))
            if str(reached) in self.exits:
                order = nested_index(fine.positions.subpixels, factor, self.sides[: depth + 1])
                details.append(hidden.index_select(2, order))
                basis.append(self.exits[str(reached)])
            if reached == factor:
                break
        return torch.cat(details, dim=-1), torch.cat(basis)
