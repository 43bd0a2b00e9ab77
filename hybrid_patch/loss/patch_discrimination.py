"""Patch discrimination: each token must find its own target among all targets of its sample and modality."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hybrid_patch.loss.logsumexp import Backend, log_sum_exp
from hybrid_patch.nn.target import TargetKeys
from hybrid_patch.packing import pack
from hybrid_patch.tokens import FineTokens

SMALLEST_SQUARED_NORM = 1e-12
SAME, FAR = 1e-9, 1e9
"""Projections of keys, which have unit length or less, that count as equal; and one that no key has."""


def patch_discrimination(
    predictions: FineTokens,
    targets: TargetKeys,
    take: Bool[Tensor, "b fh fw t s"],
    temperature: float,
    merge_equal: bool,
    backend: Backend,
    chunk: int,
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """The mean over the tokens of each sample of `logsumexp_j(p_i · t_j / τ) - p_i · t_i / τ`, unit p and t, times 2τ.

    The loss of Galileo and OlmoEarth (Tseng et al. 2025, "Galileo", section 3), over tokens at the output patch size.

    Args:
        predictions: tokens `[B, H, W, T, S, D]`, factored.
        targets: of all positions of the same grid.
        take: positions that are both queries and keys (hidden or visible ones, none that is missing).
        merge_equal: positions with equal targets (maps have few distinct ones) are no negatives of each other.
        backend, chunk: how the sum over all keys is worked out (`log_sum_exp`).

    Returns:
        `[B]` the loss of each sample, an exact 0 where it has no position; and whether it has any.
    """
    packing = pack(take.flatten(1))
    valid = packing.valid()
    predictions = predictions.float()
    # Unit length and temperature are put on the narrow products: the tokens themselves are never made.
    norm = predictions.squared_norm().clamp(min=SMALLEST_SQUARED_NORM).sqrt()
    products = predictions.dense() if targets.projection is None else predictions.project(targets.projection)
    query = packing.gather((products / (norm[..., None] * temperature)).flatten(1, 4))
    key = packing.gather(targets.vectors.flatten(1, 4))
    loss = torch.where(valid, log_sum_exp(query, key, packing.keep, backend, chunk) - (query * key).sum(-1), 0)
    if merge_equal:
        # Take the other tokens with the same target out of the sum again: each is as large as the token's own.
        others = torch.where(valid, equal_counts(key, valid) - 1, 0)
        share = (others * (-loss).exp()).clamp(max=(others + 0.5) / (others + 1))
        loss = loss + torch.log1p(-share)
    count = valid.sum(1)
    loss = loss.sum(1) / count.clamp(min=1)
    return 2 * temperature * loss, count > 0


def equal_counts(key: Float[Tensor, "b n k"], keep: Bool[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """How many kept keys of the same sample equal each key (at least 1).

    Keys are told apart by one random projection in float64, so that a sort of numbers finds the equal ones. Equal keys
    may differ there by a rounding, so that a step of less than `SAME` is none.
    """
    direction = torch.randn(key.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    code = (key.double() @ direction.to(key.device)).masked_fill(~keep, FAR)
    ordered, order = code.sort(dim=1)
    new = torch.ones_like(keep)
    new[:, 1:] = ordered.diff(dim=1) > SAME
    run = new.cumsum(1) - 1
    counts = torch.zeros_like(run).scatter_add_(1, run, torch.ones_like(run)).gather(1, run)
    return torch.zeros_like(key[..., 0]).scatter(1, order, counts.to(key.dtype))
