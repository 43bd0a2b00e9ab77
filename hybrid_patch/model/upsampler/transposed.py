import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hybrid_patch.config.curriculum import prime_factors
from hybrid_patch.data.batch import Guide
from hybrid_patch.model.tokens import DenseTokens, FineTokens, Positions, TokenGrid, Tokens
from hybrid_patch.model.upsampler import TokenSpec, Upsampler
from hybrid_patch.model.upsampler.stages import nested_index, reached_factors


class Transposed(Upsampler):
    """Transposed convolutions at full width, with layer norms and GELU between them, and no interpolation beside them.

    As in the pyramid of ViTDet (Li et al. 2022): kernel 2 and stride 2, three times for 8→4→2→1; any other ratio has a
    stage for each of its prime factors, whose side is kernel and stride, so that no token sees its neighbours. Every
    fine token has D numbers, which is what `FineTokens` avoid.
    """

    is_dense = True

    def __init__(self, tokens: TokenSpec) -> None:
        super().__init__()
        largest = max(tokens.factors)
        self.sides, self.reached = tuple(prime_factors(largest)), reached_factors(largest)
        self.stages = nn.ModuleList(nn.Linear(tokens.width, tokens.width * side**2) for side in self.sides)
        self.norms = nn.ModuleList(nn.LayerNorm(tokens.width) for _ in self.sides[1:])

    @staticmethod
    def supports(factor: int, largest: int) -> bool:
        """Products of the first prime factors of the largest."""
        return factor in (1, *reached_factors(largest))

    def forward(self, grid: TokenGrid, factor: int, positions: Positions, guide: Guide | None = None) -> Tokens:
        """Raises ValueError for a factor that it was not built for."""
        fine = FineTokens(grid, factor, positions)
        if factor == 1:
            return fine
        if factor not in self.reached:
            raise ValueError(f"factor {factor}: no stage for it, only for {list(self.reached)}")
        sides = self.sides[: self.reached.index(factor) + 1]
        hidden, subpixels, every = fine.cell_tokens()[:, :, None], positions.subpixels, 1
        for depth, side in enumerate(sides):
            stage, parts, complete = self.stages[depth], side**2, hidden.shape[2] == every
            assert isinstance(stage, nn.Linear)
            hidden, every = F.gelu(self.norms[depth - 1](hidden)) if depth else hidden, every * parts
            if every <= len(subpixels):
                hidden = stage(hidden).flatten(2).unflatten(2, (every, -1))
                continue
            index = nested_index(subpixels, factor, sides[: depth + 1])
            if complete:  # up to here; from here on at the subpixels alone, which are fewer
                hidden = hidden.index_select(2, index // parts)
            hidden = parts_of(stage, hidden, index % parts, parts)
        if every == len(subpixels):  # in the stages' order
            hidden = hidden.index_select(2, nested_index(subpixels, factor, sides))
        return DenseTokens(hidden)


def parts_of(
    stage: nn.Linear, values: Float[Tensor, "b n p d"], which: Int[Tensor, " p"], parts: int
) -> Float[Tensor, "b n p d"]:
    """One of the parts into which a stage divides each position: `which`, of so many."""
    weight, bias = (x.unflatten(0, (parts, -1)).index_select(0, which) for x in (stage.weight, stage.bias))
    return torch.einsum("bnpi,poi->bnpo", values, weight) + bias
