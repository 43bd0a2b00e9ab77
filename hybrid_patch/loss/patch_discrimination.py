"""Patch discrimination: each token must find its own target among all targets of its sample and modality."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config.loss_options import ContrastiveTerm
from hybrid_patch.data.packing import take_rows
from hybrid_patch.loss.logsumexp import NEVER, Backend, log_sum_exp, unusable
from hybrid_patch.loss.queries import Cells, Queries
from hybrid_patch.loss.targets import RandomTargets, TargetKeys
from hybrid_patch.loss.term import LossSetting, PerSampleTerm
from hybrid_patch.model.tokens import Tokens

SMALLEST_SQUARED_NORM = 1e-12
SAME, FAR = 1e-13, 1e9
"""Codes of targets that differ by less are equal (rounding in float64); a code that no target has."""


class PatchDiscrimination(PerSampleTerm):
    """The loss of a source's tokens, through a linear head to the width of the targets."""

    def __init__(self, setting: LossSetting) -> None:
        super().__init__()
        self.loss, self.modalities = setting.loss, setting.modalities
        config: ContrastiveTerm = getattr(setting.loss, self.name)
        self.temperature = config.temperature
        self.head = nn.Linear(setting.widths[self.source], setting.widths["encoder"])

    def of_modality(self, fine: Tokens, cells: Cells, targets: RandomTargets) -> Float[Tensor, " bv"]:
        modality = self.modalities[cells.name]
        categorical = modality.kind == "categorical"
        coded = categorical or self.loss.merge_duplicates
        bounded = categorical and cells.mean_weights is None and cells.shares is None
        of_what = cells.band_set, cells.patch_size, coded
        if cells.shares is None:
            keys = targets.keys(cells.name, cells.pixels, *of_what)
        else:
            keys = targets.mean_keys(cells.name, cells.patches, cells.shares, *of_what)
        return patch_discrimination(
            cells.compared(fine.float().transform(self.head.weight.mT, self.head.bias)),
            keys,
            cells.loss_mask,
            cells.queries,
            self.temperature,
            modality.channels ** (cells.patch_size**2) if bounded else None,
            self.loss.backend,
            self.loss.chunk,
        )


class DecodedDiscrimination(PatchDiscrimination):
    """Of the decoder's predictions for hidden tokens."""

    name, source = "decoded", "decoder"


class VisibleDiscrimination(PatchDiscrimination):
    """Of the encoder's own tokens."""

    name, source = "visible", "encoder"


def patch_discrimination(
    predictions: Tokens,
    targets: TargetKeys,
    loss_mask: Bool[Tensor, "b n subpixels"],
    queries: Queries,
    temperature: float,
    max_distinct: int | None,
    backend: Backend,
    chunk: int | None,
) -> Float[Tensor, " b"]:
    """The mean over the tokens of each sample of `logsumexp_j(p_i · t_j / τ) - p_i · t_i / τ`, unit p and t, times 2τ.

    The loss of Galileo and OlmoEarth (Tseng et al. 2025, "Galileo", section 3), over tokens at the output patch size.
    Where targets have codes, positions with equal ones are no negatives of each other.

    Args:
        predictions: tokens at the queries, in float32.
        targets, loss_mask: of all subpixels of all cells that may be queried; the masked ones are keys and queries.
        max_distinct: the largest number of distinct codes in a sample; None: that of the positions.
    """
    # Unit length and temperature are applied to the narrow products: the fine tokens themselves are never made.
    norm = predictions.squared_norm().clamp(min=SMALLEST_SQUARED_NORM).sqrt()
    products = predictions.dense() if targets.projection is None else predictions.project(targets.projection)
    query = (products / (norm[..., None] * temperature)).flatten(1, 2)
    key, key_mask = targets.vectors.flatten(1, 2), loss_mask.flatten(1)
    if targets.code is None:
        bias = torch.where(key_mask, 0.0, NEVER).to(key.dtype)
        loss = log_sum_exp(query, key, bias, backend, chunk)
        loss = loss - (query * queries.of(targets.vectors).flatten(1, 2)).sum(-1)
    else:
        slots = min(key.shape[1], (max_distinct or key.shape[1]) + 1)
        first, counts, group = count_equal(targets.code.flatten(1), key_mask, slots)
        query_group = queries.of(group.reshape(loss_mask.shape)).flatten(1)
        query_mask = queries.of(loss_mask).flatten(1)
        loss = _among_distinct(query, take_rows(key, first), counts, query_group, query_mask, backend, chunk)
    return (2 * temperature * queries.mean(loss.reshape(norm.shape), loss_mask)).to(key.dtype)


def _among_distinct(
    query: Float[Tensor, "b n k"],
    distinct: Float[Tensor, "b u k"],
    counts: Int[Tensor, "b u"],
    group: Int[Tensor, "b n"],
    query_mask: Bool[Tensor, "b n"],
    backend: Backend,
    chunk: int | None,
) -> Float[Tensor, "b n"]:
    """The loss of tokens whose targets may be equal, against distinct keys and their counts; 0 outside `query_mask`.

    The sum over all keys has a token's own target (`group`) c times; the other c - 1 are subtracted again. What is left
    may be 1/c of the sum, so relative errors grow by c: hence float64.
    """
    query, distinct = query.double(), distinct.double()
    if backend != "auto" and unusable(backend, query):  # a kernel for float32 alone
        backend = "auto"
    bias = torch.where(counts > 0, counts.clamp(min=1).double().log(), NEVER)
    loss = log_sum_exp(query, distinct, bias, backend, chunk) - (query * take_rows(distinct, group)).sum(-1)
    loss = torch.where(query_mask, loss, 0)
    others = (counts.gather(1, group) - 1).clamp(min=0)
    share = (others * (-loss).exp()).clamp(max=(others + 0.5) / (others + 1))
    return loss + torch.log1p(-share)


def count_equal(
    code: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"], slots: int
) -> tuple[Int[Tensor, "b u"], Int[Tensor, "b u"], Int[Tensor, "b n"]]:
    """A position of each group of equal codes, its size (0 in unused slots), and the group of every masked position."""
    ordered, order = code.masked_fill(~mask, FAR).sort(dim=1)
    new = torch.ones_like(mask)
    new[:, 1:] = ordered.diff(dim=1) > SAME
    run = new.cumsum(1) - 1
    empty = torch.zeros(len(code), slots, dtype=torch.long, device=code.device)
    counts = empty.scatter_add(1, run, mask.gather(1, order).long())
    first = empty.scatter_reduce(1, run, order, "amax")
    return first, counts, torch.zeros_like(order).scatter(1, order, run)
