"""What the loss compares in the coarse cells of a modality, and which fine positions are queries.

All positions are queries, or a random sample of them that gives an unbiased estimate of the same mean.
"""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybrid_patch.data.batch import QuerySampling
from hybrid_patch.data.packing import Packing, take_rows
from hybrid_patch.model.tokens import Positions, Tokens


@dataclasses.dataclass(frozen=True)
class Queries(Positions):
    """Positions among all subpixels of some cells, each of which represents `weight` of them.

    The sum of `weight · x` over the queries has the sum of x over all positions as its expectation: every position is
    drawn with the same probability, `1 / weight` times on average.

    Attributes:
        rows: the cells' indices among all cells; None: every cell, in order.
        drawn: False if all positions are queries.
    """

    rows: Int[Tensor, "b r"] | None
    weight: Float[Tensor, " b"]
    drawn: bool

    def rows_of(self, values: Shaped[Tensor, "b n *d"]) -> Shaped[Tensor, "b r *d"]:
        """Select the queries' cells from values of all cells."""
        return values if self.rows is None else take_rows(values, self.rows)

    def of(self, values: Shaped[Tensor, "b n subpixels *d"]) -> Shaped[Tensor, "b r p *d"]:
        """Select the queries from values at all subpixels of all cells."""
        values = self.rows_of(values)
        return values if len(self.subpixels) == values.shape[2] else values.index_select(2, self.subpixels)

    def mean(self, values: Float[Tensor, "b r p"], loss_mask: Bool[Tensor, "b n subpixels"]) -> Float[Tensor, " b"]:
        """Unbiased mean over the masked positions, of values at the queries; an exact 0 where there is none."""
        total = torch.where(self.of(loss_mask), values, 0).flatten(1).sum(1) * self.weight
        return total / loss_mask.flatten(1).sum(1).clamp(min=1)


def all_queries(cells: Packing, factor: int) -> Queries:
    """All subpixels of the cells."""
    device = cells.index.device
    subpixels, weight = torch.arange(factor**2, device=device), torch.ones(len(cells.index), device=device)
    return Queries(cells, subpixels, None, weight, drawn=False)


def draw_queries(
    cells: Packing, factor: int, max_queries: int | None, expected_cells: int, sampling: QuerySampling
) -> Queries:
    """At most `max_queries` positions per sample (None: all), by the step's random numbers.

    Subpixels are drawn first, the same for all cells, so that an upsampler works on the drawn ones alone: as many as
    fit `max_queries` with `expected_cells` cells. Where there are more cells than `max_queries`, one subpixel is drawn,
    and cells by stratified sampling: the sample's cells are divided into `max_queries` parts of equal length, and one
    cell is drawn from each.

    Args:
        expected_cells: how many a sample has where nothing is missing. The number of subpixels depends on it, not on
            the batch, so that all processes draw the same.
    """
    everything = all_queries(cells, factor)
    if max_queries is None or expected_cells * factor**2 <= max_queries:
        return everything
    subpixels = sampling.subpixels[: max(max_queries // expected_cells, 1)]
    weight = everything.weight * (factor**2 / len(subpixels))
    if cells.index.shape[1] <= max_queries:
        return Queries(cells, subpixels, None, weight, drawn=True)
    count = cells.valid().sum(1, keepdim=True)
    stratum = torch.arange(max_queries, device=count.device)
    chosen = ((stratum + sampling.strata) * (count / max_queries)).long().minimum(count - 1).clamp(min=0)
    rows = torch.where(count > max_queries, chosen, stratum)
    drawn = Packing(cells.index.gather(1, rows), stratum < count, cells.length)
    weight = weight * (count / count.clamp(min=1, max=max_queries))[:, 0]
    return Queries(drawn, subpixels, rows, weight, drawn=True)


@dataclasses.dataclass(frozen=True)
class Cells:
    """Coarse cells of one modality that have one mask value, n of each view, and what is compared in them.

    Compared are their output patches one by one (p = f^2 in each cell), or the mean of each cell's (p = 1).

    Attributes:
        name, patch_size: of the modality, and of output patches.
        packing: which cells of the flattened grid `[B V, h w T S]`.
        band_set: of each cell's tokens.
        valid_mask: the output patches without a missing pixel.
        pixels: `m = C ps^2` numbers of each thing compared.
        loss_mask, queries: what of it counts, and what of it is computed.
        mean_weights: of each output patch in the mean of a query's cell; None if they are compared one by one.
    """

    name: str
    patch_size: int
    packing: Packing
    band_set: Int[Tensor, "b n"]
    valid_mask: Bool[Tensor, "b n f2"]
    pixels: Float[Tensor, "b n p m"]
    loss_mask: Bool[Tensor, "b n p"]
    queries: Queries
    mean_weights: Float[Tensor, "b r f2"] | None

    @property
    def positions(self) -> Positions:
        """The fine tokens that the queries need."""
        if self.mean_weights is None:
            return self.queries
        return Positions(self.queries.cells, self.everywhere.subpixels)

    @property
    def everywhere(self) -> Positions:
        """All fine tokens of the cells."""
        return Positions(self.packing, torch.arange(self.valid_mask.shape[2], device=self.valid_mask.device))

    def at_positions(self, values: Shaped[Tensor, "b n f2 *d"]) -> Shaped[Tensor, "b r p *d"]:
        """Select `positions` from values at all output patches of all cells."""
        return self.queries.of(values) if self.mean_weights is None else self.queries.rows_of(values)

    def compared(self, fine: Tokens) -> Tokens:
        """What the queries compare, from tokens at `positions`: these, or their means."""
        return fine if self.mean_weights is None else fine.cell_means(self.mean_weights)
