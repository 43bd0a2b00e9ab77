"""Upsamplers: coarse tokens → factored fine tokens, after attention; docs/extending.md shows how one is written.

All built-in ones take grids of 4 to 6 axes (those that need pixels: of 6), start as plain interpolation (but
`transposed`), and are the identity at factor 1.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config import upsamplers
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import Guide
from hybrid_patch.errors import InputError
from hybrid_patch.model.interpolation import Interpolation
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid, Tokens


@dataclasses.dataclass(frozen=True)
class TokenSpec:
    """The tokens that an upsampler is built for."""

    width: int
    factors: Collection[int]  # of all stages of a training
    modalities: Mapping[str, Modality] = dataclasses.field(default_factory=dict)  # none for a decoder's predictions


class Upsampler(nn.Module):
    """Interpolates tokens, and adds a subclass's detail.

    It is built from a `TokenSpec` and its options, the keyword-only arguments of its `__init__`, whose annotations
    check a config's values: `rank: Annotated[int, Field(ge=1)]`. With `needs_pixels`, `detail` gets a `Guide`, training
    drops a share of the pixels (the option `pixel_dropout`, added to its own), and no decoder can use it.
    """

    needs_pixels: ClassVar[bool] = False
    interpolation: ClassVar[Interpolation] = "bilinear"
    is_dense: ClassVar[bool] = False  # its own `forward` makes `DenseTokens`

    @staticmethod
    def supports(factor: int, largest: int) -> bool:
        """Whether it upsamples by a factor in a training whose largest is given."""
        return True

    def adapted(self, grid: TokenGrid) -> TokenGrid:
        """The coarse tokens that are interpolated, at a factor above 1; by default as they are."""
        return grid

    def detail(
        self, fine: FineTokens, guide: Guide | None
    ) -> tuple[Float[Tensor, "b n p r"], Float[Tensor, "r d"]] | None:
        """Detail and basis to be added to interpolated tokens, of a factor above 1; None: nothing is added."""
        return None

    def forward(self, grid: TokenGrid, factor: int, positions: Positions, guide: Guide | None = None) -> Tokens:
        """Fine tokens at some positions of a grid, f times as fine. Raises what `detail` raises."""
        adapted = grid if factor == 1 else self.adapted(grid)
        fine = FineTokens(adapted, factor, positions, interpolation=self.interpolation)
        added = None if factor == 1 else self.detail(fine, guide)
        return fine if added is None else dataclasses.replace(fine, detail=added[0], basis=added[1])


UpsamplerFactory = Callable[[TokenSpec], Upsampler]
"""The class of an upsampler, or a `functools.partial` with its options."""


def factory(choice: upsamplers.Upsampler) -> UpsamplerFactory:
    """The upsampler that a config chooses; building it raises InputError for a factor that it does not support."""

    def build(tokens: TokenSpec) -> Upsampler:
        cls = upsamplers.load_class(choice)
        assert issubclass(cls, Upsampler)
        refused = [factor for factor in tokens.factors if not cls.supports(factor, max(tokens.factors))]
        if refused:
            raise InputError(f"upsampler={choice.name}: does not support a ratio of {refused[0]}; try bilinear")
        return cls(tokens, **upsamplers.arguments(choice))

    return build
