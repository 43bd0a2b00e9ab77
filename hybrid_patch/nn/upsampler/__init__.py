"""Upsamplers: coarse tokens → factored fine tokens, after attention.

One file each, and one line in `build`. All of them take grids of 4, 5 and 6 axes and any whole factor, start as plain
interpolation, and are the identity at factor 1. They work on the positions that are asked for, and no others.
"""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from hybrid_patch.config import schema
from hybrid_patch.nn.upsampler.bilinear import Bilinear
from hybrid_patch.nn.upsampler.learned import Learned
from hybrid_patch.nn.upsampler.subpixel import Subpixel
from hybrid_patch.tokens import FineTokens, Positions, TokenGrid


@runtime_checkable
class Upsampler(Protocol):
    """What an upsampler (an `nn.Module`) does."""

    def __call__(self, grid: TokenGrid, factor: int, positions: Positions) -> FineTokens:
        """Fine tokens at some positions of a grid `[B, h, w, ..., D]`, f times as fine."""
        ...


def build(config: schema.Upsampler, width: int, factors: Collection[int]) -> Bilinear | Learned | Subpixel:
    """The upsampler that a config names, for tokens of a width and the factors of a run's stages."""
    match config:
        case schema.Bilinear():
            return Bilinear()
        case schema.Learned():
            return Learned(width, config.width, factors)
        case schema.Subpixel():
            return Subpixel(width, config.rank, max(factors))
