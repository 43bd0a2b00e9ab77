"""What the loss compares in a modality's coarse cells, and its queries: all fine positions or a random sample."""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybrid_patch.data.batch import QuerySampling
from hybrid_patch.data.packing import Packing, take_rows
from hybrid_patch.model.tokens import Positions, Tokens


@dataclasses.dataclass(frozen=True)
class Queries(Positions):
    """Positions among all subpixels of some cells; each is drawn with probability `1 / weight`.

    The sum of `weight · x` over the queries is an unbiased estimate of the sum of x over all positions.
    """

    rows: Int[Tensor, "b r"] | None  # the cells' indices among all cells; None: every cell, in order
    weight: Float[Tensor, " b"]
    drawn: bool  # False if all positions are queries

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
    device = cells.index.device
    subpixels, weight = torch.arange(factor**2, device=device), torch.ones(len(cells.index), device=device)
    return Queries(cells, subpixels, None, weight, drawn=False)


def draw_queries(
    cells: Packing, factor: int, max_queries: int | None, expected_cells: int, sampling: QuerySampling
) -> Queries:
    """At most `max_queries` positions per sample (None: all), by the step's random numbers.

    Subpixels are drawn first, the same for all cells, so that an upsampler works on these alone: as many as fit with
    `expected_cells` cells (those of a sample without missing data: the same in all processes). Where there are more
    cells than `max_queries`, one subpixel is drawn, and one cell from each of `max_queries` equal parts of the cells.
    """
    everything = all_queries(cells, factor)
    if max_queries is None or expected_cells * factor**2 <= max_queries:
        return everything
    subpixels = sampling.subpixels[: max(max_queries // expected_cells, 1)]
    weight = everything.weight * (factor**2 / len(subpixels))
    if cells.index.shape[1] <= max_queries:
        return Queries(cells, subpixels, None, weight, drawn=True)
    rows, drawn, count = draw_rows(cells, max_queries, sampling.strata)
    weight = weight * (count / count.clamp(min=1, max=max_queries))[:, 0]
    return Queries(drawn, subpixels, rows, weight, drawn=True)


def draw_rows(
    cells: Packing, number: int, strata: Float[Tensor, " _"]
) -> tuple[Int[Tensor, "b number"], Packing, Int[Tensor, "b 1"]]:
    """Draw one cell from each of `number` equal parts of a sample's cells; all of a sample that has no more.

    Returns the cells' indices among all cells, the cells, and how many each sample has. `strata` are uniform random
    numbers, at least `number`.
    """
    count = cells.valid().sum(1, keepdim=True)
    stratum = torch.arange(number, device=count.device)
    chosen = ((stratum + strata[:number]) * (count / number)).long().minimum(count - 1).clamp(min=0)
    rows = torch.where(count > number, chosen, stratum)
    return rows, Packing(cells.index.gather(1, rows), stratum < count, cells.length), count


@dataclasses.dataclass(frozen=True)
class Cells:
    """Coarse cells of one modality that have one mask value, n of each view, and what is compared in them.

    That is each output patch (p = f^2 of a cell), or their mean in a cell (p = 1). With `loss.target_patch_size=1` an
    output patch of several pixels has the mean of their targets.
    """

    name: str
    patch_size: int  # of the targets
    packing: Packing  # of the flattened grid `[B V, h w T S]`
    band_set: Int[Tensor, "b n"]
    valid_mask: Bool[Tensor, "b n f2"]  # output patches without a missing pixel; of several targets, with a valid one
    patches: Float[Tensor, "b n p q m"]  # `m = C ps^2` numbers for each of the q targets of a thing compared
    shares: Float[Tensor, "b n p q"] | None  # of the targets in their mean; None: q = 1
    loss_mask: Bool[Tensor, "b n p"]
    queries: Queries
    mean_weights: Float[Tensor, "b r f2"] | None  # of output patches in a query's mean; None: compared one by one

    @property
    def pixels(self) -> Float[Tensor, "b n p m"]:
        """The numbers of each thing compared: of several targets, the mean of theirs."""
        return self.patches[:, :, :, 0] if self.shares is None else (self.patches * self.shares[..., None]).sum(3)

    @property
    def positions(self) -> Positions:
        """The fine tokens that the queries need."""
        means = self.mean_weights is not None
        return Positions(self.queries.cells, self.everywhere.subpixels) if means else self.queries

    @property
    def everywhere(self) -> Positions:
        return Positions(self.packing, torch.arange(self.valid_mask.shape[2], device=self.valid_mask.device))

    def at_positions(self, values: Shaped[Tensor, "b n f2 *d"]) -> Shaped[Tensor, "b r p *d"]:
        """Select `positions` from values at all output patches of all cells."""
        return self.queries.of(values) if self.mean_weights is None else self.queries.rows_of(values)

    def compared(self, fine: Tokens) -> Tokens:
        """What the queries compare, from tokens at `positions`: these, or their means."""
        return fine if self.mean_weights is None else fine.cell_means(self.mean_weights)
