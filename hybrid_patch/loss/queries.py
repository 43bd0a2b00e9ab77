"""What the loss compares in the coarse cells of a modality, and which fine positions are queries.

All positions are queries, or a random sample of them that gives an unbiased estimate of the same mean.
"""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybrid_patch.data.batch import Batch, QuerySampling
from hybrid_patch.data.packing import Packing, take_rows
from hybrid_patch.data.patchify import repatchify
from hybrid_patch.model.tokens import Positions, Tokens

PerSample = tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]
"""The loss of each sample, an exact 0 where it has no position; and whether it has any."""


@dataclasses.dataclass(frozen=True)
class Queries(Positions):
    """Positions among all subpixels of some cells, each of which represents `weight` of them.

    The sum of `weight · x` over the queries has the sum of x over all positions as its expectation: every position is
    drawn with the same probability, `1 / weight` times on average.

    Attributes:
        rows: `[B, r]` the cells' indices among all cells; None: every cell, in order.
        weight: `[B]` how many positions each query represents.
        drawn: False if all positions are queries.
    """

    rows: Int[Tensor, "b r"] | None
    weight: Float[Tensor, " b"]
    drawn: bool

    def rows_of(self, values: Shaped[Tensor, "b n *d"]) -> Shaped[Tensor, "b r *d"]:
        """Select the queries' cells from values of all cells."""
        if self.rows is None:
            return values
        return take_rows(values, self.rows).reshape(*self.rows.shape, *values.shape[2:])

    def of(self, values: Shaped[Tensor, "b n subpixels *d"]) -> Shaped[Tensor, "b r p *d"]:
        """Select the queries from values at all subpixels of all cells."""
        values = self.rows_of(values)
        return values if len(self.subpixels) == values.shape[2] else values.index_select(2, self.subpixels)

    def mean(self, values: Float[Tensor, "b r p"], loss_mask: Bool[Tensor, "b n subpixels"]) -> PerSample:
        """Unbiased mean over the masked positions, and whether there is any; an exact 0 where there is none.

        Args:
            values: at the queries.
            loss_mask: of all subpixels of all cells.
        """
        count = loss_mask.flatten(1).sum(1)
        total = torch.where(self.of(loss_mask), values, 0).flatten(1).sum(1) * self.weight
        return total / count.clamp(min=1), count > 0


def all_queries(cells: Packing, factor: int) -> Queries:
    """All subpixels of the cells."""
    device = cells.index.device
    return Queries(
        cells, torch.arange(factor**2, device=device), None, torch.ones(len(cells.index), device=device), drawn=False
    )


def draw_queries(
    cells: Packing, factor: int, max_queries: int | None, expected_cells: int, sampling: QuerySampling
) -> Queries:
    """At most `max_queries` positions per sample (None: all), by the step's random numbers.

    Subpixels are drawn first, the same for all cells, so that an upsampler works on the drawn ones alone: as many as
    fit `max_queries` with `expected_cells` cells. Where there are more cells than `max_queries`, one subpixel is drawn,
    and cells by stratified sampling: the sample's cells are divided into `max_queries` parts of equal length, and one
    cell is drawn from each.

    Args:
        cells: the cells that may be drawn.
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
    """Coarse cells of one modality that have one mask value, and what is compared in them.

    Compared are their output patches one by one, or the mean of each cell's output patches.

    Attributes:
        name: of the modality.
        patch_size: the output patch size.
        packing: which cells of the flattened grid `[B V, h w T S]`, n of each view.
        band_set: `[B V, n]`.
        valid_mask: `[B V, n, f^2]` the output patches without a missing pixel.
        pixels: `[B V, n, p, m]` of what is compared, `m = C ps^2` numbers each; p is f^2, or 1 for means.
        loss_mask: `[B V, n, p]` what of it counts.
        queries: what of it is computed.
        mean_weights: `[B V, r, f^2]` the weight of each output patch in the mean of a query's cell; None if output
            patches are compared one by one.
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


def cells_of(
    name: str,
    batch: Batch,
    pixels: Float[Tensor, "b h w t ps ps c"],
    output: int,
    packing: Packing,
    max_queries: int | None,
    expected_cells: int,
    means: bool,
) -> Cells:
    """What is compared in some cells of a modality.

    Args:
        pixels: of the modality, in patches of the processing patch size.
        output: the output patch size.
        packing: the cells, of the flattened grid `[B V, h w T S]`.
        max_queries, expected_cells: how many queries are drawn (`draw_queries`).
        means: compare the mean of each cell's output patches.
    """
    band_sets, factor = batch.masks[name].shape[-1], pixels.shape[4] // output
    patches = packing.over(band_sets).gather(repatchify(pixels, output).flatten(1, 3))
    valid_mask = batch.valid_patches(name, packing, output)
    band_set = packing.index % band_sets
    if not means:
        queries = draw_queries(packing, factor, max_queries, expected_cells, batch.query_sampling)
        return Cells(name, output, packing, band_set, valid_mask, patches, valid_mask, queries, None)
    sampling = QuerySampling(torch.zeros_like(batch.query_sampling.subpixels[:1]), batch.query_sampling.strata)
    queries = draw_queries(packing, 1, max_queries, expected_cells, sampling)
    weights = valid_mask / valid_mask.sum(-1, keepdim=True).clamp(min=1)
    loss_mask = valid_mask.any(-1, keepdim=True)
    mean = (weights[..., None] * patches).sum(2, keepdim=True)
    return Cells(name, output, packing, band_set, valid_mask, mean, loss_mask, queries, queries.rows_of(weights))
