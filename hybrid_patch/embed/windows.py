"""Split images of any size into overlapping windows, and blend these without seams, row by row in constant memory."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.errors import InputError


class Tiling(NamedTuple):
    """The layout of windows on an image: their side, and the stride from one to the next, in pixels."""

    side: int
    stride: int

    @classmethod
    def overlapping(cls, side: int, overlap: int, patch_size: int) -> "Tiling":
        """Windows that share `overlap` pixels, rounded up to fit the patch size; InputError for `side` or more."""
        if not 0 <= overlap < side:
            raise InputError(f"overlap={overlap}: takes 0 to {side - 1} pixels, less than a window's side")
        return cls(side, max((side - overlap) // patch_size, 1) * patch_size)

    def starts(self, length: int, begin: int = 0, end: int | None = None) -> list[int]:
        """The first pixels of the windows along one side of an image that reach pixels `begin` to `end` (exclusive).

        The last window ends at the image's edge, since patches across the edge would be partly empty, which shows.
        """
        last = max(length - self.side, 0)
        starts = [*range(0, last, self.stride), last]
        return [x for x in starts if x + self.side > begin and x < (length if end is None else end)]


class Blender:
    """Averages overlapping windows, weighted by the distance to their borders; holds a row of them, at `lefts`."""

    def __init__(self, height: int, tiling: Tiling, lefts: Sequence[int]) -> None:
        self.height, self.tiling, self.lefts = height, tiling, lefts
        self._weights = blending_weights(tiling.side)
        self._across = torch.zeros(lefts[-1] + tiling.side - lefts[0])
        for left in lefts:
            self._across[left - lefts[0] :][: tiling.side] += ramp(tiling.side)
        self._down = torch.zeros(tiling.side)
        self._total: Tensor | None = None

    def add(self, top: int, batches: Iterable[Float[Tensor, "n side side d"]]) -> Float[Tensor, "rows width d"]:
        """Add the row of windows at `top`; returns the image's rows from there to the next windows, now complete."""
        side, last = self.tiling.side, max(self.height - self.tiling.side, 0)
        for left, window in zip(self.lefts, itertools.chain.from_iterable(batches), strict=True):
            if self._total is None:
                self._total = torch.zeros(side, len(self._across), window.shape[-1])
            self._total[:, left - self.lefts[0] :][:, :side].addcmul_(window, self._weights)
        assert self._total is not None
        self._down += ramp(side)
        done = min(self.tiling.stride, last - top) if top < last else self.height - top
        rows = self._total[:done] / (self._down[:done, None] * self._across)[..., None]
        self._total = torch.cat([self._total[done:], torch.zeros_like(self._total[:done])])
        self._down = torch.cat([self._down[done:], torch.zeros(done)])
        return rows


def ramp(side: int) -> Float[Tensor, " side"]:
    """1 in the middle, above 0 at the ends, and flat there: the kink of a straight ramp shows at a window's border."""
    position = torch.arange(side)
    height = torch.minimum(position + 0.5, side - position - 0.5) * 2 / side
    return height**2 * (3 - 2 * height)


def blending_weights(side: int) -> Float[Tensor, "side side 1"]:
    return (ramp(side)[:, None] * ramp(side))[..., None]
