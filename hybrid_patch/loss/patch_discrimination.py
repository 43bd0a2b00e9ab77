"""Patch discrimination: each token must find its own target among all targets of its sample and modality."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid_patch.data.packing import take_rows
from hybrid_patch.loss.logsumexp import NEVER, Backend, log_sum_exp, unusable
from hybrid_patch.loss.queries import Queries
from hybrid_patch.loss.targets import TargetKeys
from hybrid_patch.model.tokens import Tokens

SMALLEST_SQUARED_NORM = 1e-12
SAME, FAR = 1e-13, 1e9
"""Steps between codes of targets below which they count as equal (roundings in float64); and a code that none has."""


def patch_discrimination(
    predictions: Tokens,
    targets: TargetKeys,
    take: Bool[Tensor, "b n subpixels"],
    queries: Queries,
    temperature: float,
    most_distinct: int | None,
    backend: Backend,
    chunk: int | None,
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """The mean over the tokens of each sample of `logsumexp_j(p_i · t_j / τ) - p_i · t_i / τ`, unit p and t, times 2τ.

    The loss of Galileo and OlmoEarth (Tseng et al. 2025, "Galileo", section 3), over tokens at the output patch size.

    Args:
        predictions: tokens at the positions of the queries, factored, in float32.
        targets: of all subpixels of all cells that may be asked about.
        take: the subpixels that count (no missing pixel), as keys and as queries.
        queries: which of them are queries; the mean over all is estimated by theirs.
        most_distinct: where the targets have codes, positions with equal ones are no negatives of each other; so many
            distinct ones there can be at most in a sample (None: as many as positions).
        backend, chunk: how the sum over all keys is worked out (`log_sum_exp`).

    Returns:
        `[B]` the loss of each sample, an exact 0 where it has no position; and whether it has any.
    """
    # Unit length and temperature are put on the narrow products: the tokens themselves are never made.
    norm = predictions.squared_norm().clamp(min=SMALLEST_SQUARED_NORM).sqrt()
    products = predictions.dense() if targets.projection is None else predictions.project(targets.projection)
    query = (products / (norm[..., None] * temperature)).flatten(1, 2)
    key, keep = targets.vectors.flatten(1, 2), take.flatten(1)
    if targets.code is None:
        own = queries.of(targets.vectors).flatten(1, 2)
        bias = torch.where(keep, 0.0, NEVER).to(key.dtype)
        loss = log_sum_exp(query, key, bias, backend, chunk) - (query * own).sum(-1)
    else:
        slots = min(key.shape[1], (most_distinct or key.shape[1]) + 1)
        first, counts, kind = count_equal(targets.code.flatten(1), keep, slots)
        distinct = take_rows(key, first).reshape(*first.shape, -1)
        asked, asked_kind = queries.of(take).flatten(1), queries.of(kind.reshape(take.shape)).flatten(1)
        loss = _among_distinct(query, distinct, counts, asked_kind, asked, backend, chunk)
    mean, some = queries.mean(loss.reshape(norm.shape), take)
    return (2 * temperature * mean).to(key.dtype), some


def _among_distinct(
    query: Float[Tensor, "b n k"],
    distinct: Float[Tensor, "b u k"],
    counts: Int[Tensor, "b u"],
    kind: Int[Tensor, "b n"],
    asked: Bool[Tensor, "b n"],
    backend: Backend,
    chunk: int | None,
) -> Float[Tensor, "b n"]:
    """The loss of tokens whose targets may be equal, against distinct keys that occur so many times.

    The sum over all keys holds a token's own target `c` times; the other `c - 1` are taken out of it again. What is
    left may be the c-th part of it, so that errors grow c times: all of this is in float64, where c is no danger.

    Args:
        kind: which of the distinct keys is a token's own.
        asked: tokens that count; the others get 0.
    """
    query, distinct = query.double(), distinct.double()
    if backend != "auto" and unusable(backend, query):  # a kernel for float32 alone
        backend = "auto"
    bias = torch.where(counts > 0, counts.clamp(min=1).double().log(), NEVER)
    own = take_rows(distinct, kind).reshape(*kind.shape, -1)
    loss = torch.where(asked, log_sum_exp(query, distinct, bias, backend, chunk) - (query * own).sum(-1), 0)
    others = (counts.gather(1, kind) - 1).clamp(min=0)
    share = (others * (-loss).exp()).clamp(max=(others + 0.5) / (others + 1))
    return loss + torch.log1p(-share)


def count_equal(
    code: Float[Tensor, "b n"], keep: Bool[Tensor, "b n"], slots: int
) -> tuple[Int[Tensor, "b u"], Int[Tensor, "b u"], Int[Tensor, "b n"]]:
    """The distinct codes of the kept positions of each sample, in `slots` slots.

    Returns:
        A position that has each; how many have it (0 in unused slots); and which of them every kept position has.
    """
    ordered, order = code.masked_fill(~keep, FAR).sort(dim=1)
    new = torch.ones_like(keep)
    new[:, 1:] = ordered.diff(dim=1) > SAME
    run = new.cumsum(1) - 1
    empty = torch.zeros(len(code), slots, dtype=torch.long, device=code.device)
    counts = empty.scatter_add(1, run, keep.gather(1, order).long())
    first = empty.scatter_reduce(1, run, order, "amax")
    return first, counts, torch.zeros_like(order).scatter(1, order, run)
