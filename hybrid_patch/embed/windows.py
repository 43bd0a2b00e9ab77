"""Images of any size in overlapping windows, blended so that no seam shows, row by row in constant memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Embed = Callable[[int, list[int]], Float[Tensor, "n side side d"]]
"""Embeddings, on the CPU, of the windows with an upper edge at a row and left edges at some columns."""


class Tiling(NamedTuple):
    """How windows lie on an image.

    Attributes:
        side: of a window, pixels.
        stride: from one window to the next.
    """

    side: int
    stride: int

    @classmethod
    def overlapping(cls, side: int, overlap: int, patch_size: int) -> "Tiling":
        """Neighbouring windows share `overlap` pixels or a few more, to the next multiple of the patch size.

        Raises ValueError for an overlap that is not smaller than the side.
        """
        if not 0 <= overlap < side:
            raise ValueError(f"overlap={overlap}: takes 0 to {side - 1}, less than a window's side")
        return cls(side, max((side - overlap) // patch_size, 1) * patch_size)

    def starts(self, length: int) -> list[int]:
        """Where windows begin along one side of an image.

        The last ends at the image's edge, wherever that is in a patch: patches with pixels beyond it would be half
        empty, which can be seen in their embeddings.
        """
        last = max(length - self.side, 0)
        return [*range(0, last, self.stride), last]

    def tops(self, height: int, first_row: int) -> list[int]:
        """Where rows of windows begin that add to a row of an image or to one below it."""
        return [top for top in self.starts(height) if top + self.side > first_row]

    def lefts(self, width: int, begin: int, end: int) -> list[int]:
        """Where columns of windows begin that add to columns `begin` to `end` (not included)."""
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
    """Bands of rows of an image's embedding, from top to bottom, each as soon as no further window adds to it.

    Where windows overlap it is their mean, weighted by the distance to each window's border. Only one row of windows is
    held in memory. Every row is the same whatever row is the first, and whatever the columns if a window's
    embedding does not depend on its batch.

    Args:
        embed: called once for each `batch` of windows of a row of windows.
        first_row: rows above it are left out, and so are windows that add to none of the others.
        columns: the first one and the one behind the last one; the others are left out likewise. None: all.
    """
    begin, end = columns or (0, width)
    tops, lefts = tiling.tops(height, first_row), tiling.lefts(width, begin, end)
    origin = lefts[0]
    weight = blending_weights(tiling.side)
    across = torch.zeros(lefts[-1] + tiling.side - origin)
    for left in lefts:
        across[left - origin :][: tiling.side] += ramp(tiling.side)
    kept = slice(begin - origin, end - origin)
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
        rows = total[:done, kept] / (down[:done, None] * across[kept])[..., None]
        if top + done > first_row:
            yield rows[max(first_row - top, 0) :]
        total = torch.cat([total[done:], torch.zeros_like(total[:done])])
        down = torch.cat([down[done:], torch.zeros(done)])


def ramp(side: int) -> Float[Tensor, " side"]:
    """1 in the middle, falling smoothly to both ends, never 0.

    Level at both ends: of a straight ramp the first step, and with it the window's border, can be seen.
    """
    place = torch.arange(side)
    height = torch.minimum(place + 0.5, side - place - 0.5) * 2 / side
    return height**2 * (3 - 2 * height)


def blending_weights(side: int) -> Float[Tensor, "side side 1"]:
    """What each pixel of a window counts where windows overlap."""
    return (ramp(side)[:, None] * ramp(side))[..., None]
