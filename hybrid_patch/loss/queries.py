"""Which fine positions of a step ask for their targets: all of them, or a drawn part that estimates the same mean."""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybrid_patch.data.batch import QuerySampling
from hybrid_patch.data.packing import Packing, take_rows
from hybrid_patch.model.tokens import Positions


@dataclasses.dataclass(frozen=True)
class Queries:
    """Positions among all subpixels of some cells, each of which stands for a number of them.

    The sum over the drawn positions of `weight · x` has the sum of x over all positions as its expectation: every
    position is drawn as often as any other, `1 / weight` times in the mean.

    Attributes:
        positions: cells and subpixels.
        rows: `[B, r]` which of all cells they are; None: every one, in order.
        weight: `[B]` how many positions each stands for.
        drawn: False if they are all there are.
    """

    positions: Positions
    rows: Int[Tensor, "b r"] | None
    weight: Float[Tensor, " b"]
    drawn: bool

    def rows_of(self, values: Shaped[Tensor, "b n *d"]) -> Shaped[Tensor, "b r *d"]:
        """Those of the values that are given for all cells."""
        if self.rows is None:
            return values
        return take_rows(values, self.rows).reshape(*self.rows.shape, *values.shape[2:])

    def of(self, values: Shaped[Tensor, "b n subpixels *d"]) -> Shaped[Tensor, "b r p *d"]:
        """Those of the values that are given at all subpixels of all cells."""
        values, subpixels = self.rows_of(values), self.positions.subpixels
        return values if len(subpixels) == values.shape[2] else values.index_select(2, subpixels)

    def mean(
        self, values: Float[Tensor, "b r p"], take: Bool[Tensor, "b n subpixels"]
    ) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """The mean over all positions to take, estimated from the values at these, and whether there is any to take.

        An exact 0 where there is none.
        """
        count = take.flatten(1).sum(1)
        total = torch.where(self.of(take), values, 0).flatten(1).sum(1) * self.weight
        return total / count.clamp(min=1), count > 0


def all_queries(cells: Packing, factor: int) -> Queries:
    """All subpixels of the cells."""
    device = cells.index.device
    one = torch.ones(len(cells.index), device=device)
    return Queries(Positions(cells, torch.arange(factor**2, device=device)), None, one, drawn=False)


def draw_queries(cells: Packing, factor: int, most: int | None, usual_cells: int, sampling: QuerySampling) -> Queries:
    """At most `most` positions per sample (None: all), by the step's random numbers.

    Places are drawn first, the same for all cells, so that an upsampler works on the drawn ones alone: as many as
    there is room for in `usual_cells` cells. Where there are more cells than `most`, one place is drawn, and cells: the
    sample's cells are cut into `most` parts of equal length, and one is taken at random from each.

    Args:
        cells: the cells that may be drawn.
        usual_cells: as many as a sample has where nothing is missing. The number of subpixels depends on it, not on the
            batch, so that all processes draw the same.
    """
    everything = all_queries(cells, factor)
    if most is None or usual_cells * factor**2 <= most:
        return everything
    subpixels = sampling.subpixels[: max(most // usual_cells, 1)]
    weight = everything.weight * (factor**2 / len(subpixels))
    if cells.index.shape[1] <= most:
        return Queries(Positions(cells, subpixels), None, weight, drawn=True)
    count = cells.valid().sum(1, keepdim=True)
    part = torch.arange(most, device=count.device)
    chosen = ((part + sampling.strata) * (count / most)).long().minimum(count - 1).clamp(min=0)
    rows = torch.where(count > most, chosen, part)
    drawn = Packing(cells.index.gather(1, rows), part < count, cells.length)
    weight = weight * (count / count.clamp(min=1, max=most))[:, 0]
    return Queries(Positions(drawn, subpixels), rows, weight, drawn=True)
