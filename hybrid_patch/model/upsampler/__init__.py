"""Upsamplers: coarse tokens → factored fine tokens, after attention.

One file each (`random_features` is a part of `guided`), and one line in `build`. All of them take grids of 4, 5 and 6
axes (`guided`: of 6) and any whole factor, start as plain interpolation, are the identity at factor 1, and give tokens
at the positions that are asked for.
"""

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

from hybrid_patch.config import schema
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import Guide
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid
from hybrid_patch.model.upsampler.bilinear import Bilinear
from hybrid_patch.model.upsampler.guided import Guided
from hybrid_patch.model.upsampler.learned import Learned
from hybrid_patch.model.upsampler.subpixel import Subpixel


@runtime_checkable
class Upsampler(Protocol):
    """What an upsampler (an `nn.Module`) does."""

    def __call__(self, grid: TokenGrid, factor: int, positions: Positions, guide: Guide | None = None) -> FineTokens:
        """Fine tokens at some positions of a grid `[B, h, w, ..., D]`, f times as fine.

        `guide` is what the tokens of the grid were made of; None for a decoder's, which are made of no pixels.
        """
        ...


def build(
    config: schema.Upsampler, width: int, factors: Collection[int], modalities: Mapping[str, Modality] | None
) -> Bilinear | Guided | Learned | Subpixel:
    """The upsampler that a config names, for tokens of a width and the factors of a run's stages.

    Args:
        modalities: that the tokens are made of; None for a decoder's: there `guided` is interpolation.
    """
    match config:
        case schema.Bilinear():
            return Bilinear()
        case schema.Guided():
            if modalities is None:
                return Bilinear()
            return Guided(width, config.rank, config.random_features, modalities)
        case schema.Learned():
            return Learned(width, config.width, factors)
        case schema.Subpixel():
            return Subpixel(width, config.rank, max(factors))
