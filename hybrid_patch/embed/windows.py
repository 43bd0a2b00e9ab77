"""Split images of any size into overlapping windows, and blend these without seams, row by row in constant memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Embed = Callable[[int, list[int]], Float[Tensor, "n side side d"]]
"""Embeds, on the CPU, the windows with their upper edge at a row and their left edges at some columns."""


class Tiling(NamedTuple):
    """The layout of windows on an image.

    Attributes:
        side: of a window, pixels.
        stride: from one window to the next.
    """

    side: int
    stride: int

    @classmethod
    def overlapping(cls, side: int, overlap: int, patch_size: int) -> "Tiling":
        """Windows that share `overlap` pixels with their neighbours, rounded up to fit the patch size.

        Raises ValueError for an overlap that is not smaller than the side.
        """
        if not 0 <= overlap < side:
            raise ValueError(f"overlap={overlap}: takes 0 to {side - 1}, less than a window's side")
        return cls(side, max((side - overlap) // patch_size, 1) * patch_size)

    def starts(self, length: int) -> list[int]:
        """The first pixels of the windows along one side of an image.

        The last window ends at the image's edge, even if it starts inside a patch of the others: patches across the
        edge would be partly empty, which shows in their embeddings.
        """
        last = max(length - self.side, 0)
        return [*range(0, last, self.stride), last]

    def tops(self, height: int, first_row: int) -> list[int]:
        """The upper edges of the rows of windows that reach a row of an image or one below it."""
        return [top for top in self.starts(height) if top + self.side > first_row]

    def lefts(self, width: int, begin: int, end: int) -> list[int]:
        """The left edges of the columns of windows that reach columns `begin` to `end` (exclusive)."""
        return [left for left in self.starts(width) if left + self.side > begin and left < end]


def blended(
    height: int,
    width: int,
    tiling: Tiling,
    embed: Embed,
    batch: int,
    first_row: int = 0,
    columns: tuple[int, int] | None = None,
) -> Iterator[Float[Tensor, "rows width d"]]:
    """Yield bands of rows of an image's embedding, from top to bottom, each as soon as it is complete.

    Overlapping windows are averaged, weighted by the distance to each window's border. Only one row of windows is held
    in memory. A row does not depend on `first_row`, nor on `columns` if windows do not depend on their batch.

    Args:
        embed: called once for each `batch` of windows of a row of windows.
        first_row: rows above it are left out, and so are windows that reach no other row.
        columns: the first one and the end (exclusive); the others are left out likewise. None: all.
    """
    begin, end = columns or (0, width)
    tops, lefts = tiling.tops(height, first_row), tiling.lefts(width, begin, end)
    origin = lefts[0]
    weight = blending_weights(tiling.side)
    across = torch.zeros(lefts[-1] + tiling.side - origin)
    for left in lefts:
        across[left - origin :][: tiling.side] += ramp(tiling.side)
    inside = slice(begin - origin, end - origin)
    total: Tensor | None = None
    down = torch.zeros(tiling.side)
    for top, below in zip(tops, [*tops[1:], height], strict=True):
        for start in range(0, len(lefts), batch):
            group = lefts[start : start + batch]
            for left, window in zip(group, embed(top, group), strict=True):
                if total is None:
                    total = torch.zeros(tiling.side, len(across), window.shape[-1])
                total[:, left - origin :][:, : tiling.side].addcmul_(window, weight)
        assert total is not None
        down += ramp(tiling.side)
        done = min(below, height) - top
        rows = total[:done, inside] / (down[:done, None] * across[inside])[..., None]
        if top + done > first_row:
            yield rows[max(first_row - top, 0) :]
        total = torch.cat([total[done:], torch.zeros_like(total[:done])])
        down = torch.cat([down[done:], torch.zeros(done)])


def ramp(side: int) -> Float[Tensor, " side"]:
    """1 in the middle, falling smoothly to both ends, never 0.

    It is flat at both ends: with a straight ramp, the kink at the window's border shows.
    """
    position = torch.arange(side)
    height = torch.minimum(position + 0.5, side - position - 0.5) * 2 / side
    return height**2 * (3 - 2 * height)


def blending_weights(side: int) -> Float[Tensor, "side side 1"]:
    """The weight of each pixel of a window where windows overlap."""
    return (ramp(side)[:, None] * ramp(side))[..., None]
