"""What a loss compares in the coarse cells of one modality that have one mask value."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybrid_patch.data.batch import Batch, QuerySampling
from hybrid_patch.data.packing import Packing
from hybrid_patch.data.patchify import repatchify
from hybrid_patch.loss.queries import Queries, draw_queries
from hybrid_patch.model.tokens import Positions, Tokens


class Cells(NamedTuple):
    """Cells, and what of them is compared: their output patches one by one, or one mean of them.

    Attributes:
        name: of the modality.
        packing: which cells of the flattened grid `[B V, h w T S]`, n of each view.
        band_set: `[B V, n]`.
        measured: `[B V, n, f^2]` the output patches that count: none that has a missing pixel.
        pixels: `[B V, n, p, m]` of what is compared, `m = C ps^2` numbers each; p is f^2, or 1 for means.
        take: `[B V, n, p]` what of it counts.
        queries: which of it are worked out.
        share: `[B V, r, f^2]` of each output patch in the mean of a query's cell; None if they are compared themselves.
    """

    name: str
    packing: Packing
    band_set: Int[Tensor, "b n"]
    measured: Bool[Tensor, "b n f2"]
    pixels: Float[Tensor, "b n p m"]
    take: Bool[Tensor, "b n p"]
    queries: Queries
    share: Float[Tensor, "b r f2"] | None

    @property
    def positions(self) -> Positions:
        """The fine tokens that the queries need."""
        if self.share is None:
            return self.queries.positions
        return Positions(self.queries.positions.cells, self.everywhere.subpixels)

    @property
    def everywhere(self) -> Positions:
        """All fine tokens of the cells."""
        return Positions(self.packing, torch.arange(self.measured.shape[2], device=self.measured.device))

    def at_positions(self, values: Shaped[Tensor, "b n f2 *d"]) -> Shaped[Tensor, "b r p *d"]:
        """Those of the values that are given at all output patches of all cells."""
        return self.queries.of(values) if self.share is None else self.queries.rows_of(values)

    def compared(self, fine: Tokens) -> Tokens:
        """Of tokens at `positions`, what the queries compare."""
        return fine if self.share is None else fine.cell_means(self.share)


def cells_of(
    name: str,
    batch: Batch,
    patches: Float[Tensor, "b h w t ps ps c"],
    output: int,
    packing: Packing,
    most_queries: int | None,
    usual_cells: int,
    means: bool,
) -> Cells:
    """Some cells of a modality.

    Args:
        patches: the modality's pixels, cut at the processing patch size.
        output: the output patch size.
        packing: the cells, of the flattened grid `[B V, h w T S]`.
        most_queries, usual_cells: how many queries are drawn (`draw_queries`).
        means: compare the mean of each cell's output patches.
    """
    band_sets, factor = batch.masks[name].shape[-1], patches.shape[4] // output
    pixels = packing.over(band_sets).gather(repatchify(patches, output).flatten(1, 3))
    measured = batch.valid_patches(name, packing, output)
    band_set = packing.index % band_sets
    if not means:
        queries = draw_queries(packing, factor, most_queries, usual_cells, batch.query_sampling)
        return Cells(name, packing, band_set, measured, pixels, measured, queries, None)
    sampling = QuerySampling(torch.zeros_like(batch.query_sampling.subpixels[:1]), batch.query_sampling.strata)
    queries = draw_queries(packing, 1, most_queries, usual_cells, sampling)
    share = measured / measured.sum(-1, keepdim=True).clamp(min=1)
    take = measured.any(-1, keepdim=True)
    mean = (share[..., None] * pixels).sum(2, keepdim=True)
    return Cells(name, packing, band_set, measured, mean, take, queries, queries.rows_of(share))
