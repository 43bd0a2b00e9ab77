"""The context term: tokens tell what is around their pixel, among the pixels of all samples."""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.packing import Packing, take_rows
from hybrid_patch.data.patchify import patchify, repatchify
from hybrid_patch.loss.all_gather import gather_rows, global_sum, world_size
from hybrid_patch.loss.context_targets import ContextTargets
from hybrid_patch.loss.logsumexp import NEVER, Backend, log_sum_exp
from hybrid_patch.loss.queries import Cells, Queries, draw_rows
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.loss.term import ContextKeys, LossSetting, MicrobatchContext, Term, mean_of_modalities
from hybrid_patch.model.tokens import Tokens


def context_keys(
    targets: ContextTargets, name: str, batch: Batch, sizes: PatchSizes, means: bool, averaged: bool, max_keys: int
) -> ContextKeys:
    """The keys of a modality: as many subpixels of every cell as `max_keys` pixels allow, at least one.

    With `means` they are of cells, over their valid pixels, instead of whole output patches; with `averaged`, means
    of the targets of an output patch's valid pixels.
    """
    cell, output = sizes.processing, sizes.processing if means else sizes.output
    sampling, cells = batch.query_sampling, batch.pixels[name][0, :, :, 0, 0].numel() // cell**2
    per_cell = max(max_keys // (cells * len(batch.timestamps) * world_size()), 1)
    subpixels = sampling.subpixels[:per_cell] if output < cell else sampling.subpixels[:1] * 0
    patches = patchify(batch.valid[name].any(-1)[:, :, :, None], cell)
    pixel_mask = repatchify(patches[..., None], output).flatten(1, 3)
    valid = pixel_mask.any(-1) if means or averaged else pixel_mask.all(-1)
    positives = targets(name, batch, cell, output, subpixels, averaged)
    positive_mask = valid.index_select(2, subpixels)
    pixels, drawn = global_sum(torch.stack([valid.sum(), positive_mask.sum()]).float())
    weight = ((pixels - 1) / (drawn - 1).clamp(min=1)).clamp(min=1)
    vectors, mask = gather_rows(positives.flatten(0, 2)), gather_rows(positive_mask.flatten().float()) > 0
    return ContextKeys(positives, positive_mask, subpixels, vectors, mask, weight, sampling.strata)


@dataclasses.dataclass(frozen=True)
class ContextQueries:
    """What a modality's tokens say of their context, at all queries of the loss."""

    name: str
    predicted: Float[Tensor, "bv r p k"]
    queries: Queries


class ContextDiscrimination(Term):
    """Contrast of the encoder's tokens with the context of the batch's pixels, through a linear head per modality.

    Surroundings differ more between samples than within one, so keys come from all of them. At most `max_queries`
    tokens of a sample are asked, and at most about `max_keys` pixels of the batch are their keys.
    """

    name, source = "context", "encoder"

    def __init__(self, setting: LossSetting) -> None:
        super().__init__()
        self.loss, self.config = setting.loss, setting.loss.context
        width = setting.widths[self.source]
        self.heads = nn.ModuleDict({name: nn.Linear(width, k) for name, k in setting.context_widths.items()})

    def of_modality(self, fine: Tokens, cells: Cells, targets: RandomTargets) -> ContextQueries:
        head = self.heads[cells.name]
        assert isinstance(head, nn.Linear)
        predicted = cells.compared(fine.float().transform(head.weight.mT, head.bias)).dense()
        return ContextQueries(cells.name, predicted, cells.queries)

    def reduce(self, parts: Sequence[ContextQueries], context: MicrobatchContext) -> Float[Tensor, ""]:
        losses = [self._of_samples(part, context.keys[part.name]) for part in parts]
        return mean_of_modalities(losses, context.counts[self.source])

    def _of_samples(self, part: ContextQueries, keys: ContextKeys) -> Float[Tensor, " bv"]:
        subpixels = min(len(part.queries.subpixels), len(keys.subpixels))
        chosen = torch.arange(subpixels, device=part.predicted.device) if part.queries.drawn else keys.subpixels
        rows, cells = _some_cells(part.queries.cells, self.config.max_queries // subpixels, keys.strata)
        predicted = take_rows(part.predicted.index_select(2, chosen), rows)
        on_ground = cells.over(cells.length // keys.positives.shape[1])
        positives, valid = (on_ground.gather(x[:, :, :subpixels]) for x in (keys.positives, keys.positive_mask))
        loss = context_discrimination(
            predicted.flatten(0, 2),
            positives.flatten(0, 2),
            keys,
            self.config.temperature,
            self.loss.backend,
            self.loss.chunk,
        )
        loss_mask = valid & cells.valid()[..., None]
        total = torch.where(loss_mask, loss.reshape(loss_mask.shape), 0).flatten(1).sum(1)
        return 2 * self.config.temperature * total / loss_mask.flatten(1).sum(1).clamp(min=1)


def _some_cells(cells: Packing, max_cells: int, strata: Float[Tensor, " k"]) -> tuple[Int[Tensor, "bv r"], Packing]:
    """At most so many of the queries' cells, as indices and as cells; all of them where the step draws nothing."""
    number = max(min(max_cells, len(strata)), 1)
    every = cells.index.shape[1]
    if not len(strata) or every <= number:
        return torch.arange(every, device=cells.index.device).expand(cells.index.shape), cells
    return draw_rows(cells, number, strata)[:2]


def context_discrimination(
    predicted: Float[Tensor, "n k"],
    positive: Float[Tensor, "n k"],
    keys: ContextKeys,
    temperature: float,
    backend: Backend,
    chunk: int | None,
) -> Float[Tensor, " n"]:
    """`log sum_j exp(q · k_j / τ) - q · k_own / τ` over all N pixels of the batch, estimated from the M drawn keys.

    The positive key, which is one of the M, counts once, and each of the others `(N - 1) / (M - 1)` times: with all
    pixels as keys it is exact.
    """
    query = F.normalize(predicted, dim=-1) / temperature
    bias = torch.where(keys.mask, 0.0, NEVER).to(query.dtype)
    total = log_sum_exp(query[None], keys.vectors[None], bias[None], backend, chunk)[0]
    itself = (query * positive).sum(-1)
    share = 1 / keys.weight
    # A query without a valid key of its own is masked by the caller, and must not make its gradient infinite.
    others = torch.log1p(-((1 - share) * (itself - total).clamp(max=0).exp()).clamp(max=1 - 1e-6))
    return total - share.log() + others - itself
