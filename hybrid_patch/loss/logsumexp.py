"""log sum_j exp(q_i · k_j) in memory linear in the number of queries, with the gradient to the queries."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# Far below any logit, and still finite: a sample without any key gives a finite number, which its caller drops.
NEVER = -1e30


class _LogSumExp(torch.autograd.Function):
    """Rows are worked on a chunk at a time. The gradient to q_i is softmax_i · k: as narrow as q, so it is kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, keep: Tensor, chunk: int) -> Tensor:
        result = query.new_empty(query.shape[:2])
        expected_key = torch.empty_like(query)
        bias = torch.where(keep, 0.0, NEVER).to(query.dtype)[:, None]
        for start in range(0, query.shape[1], chunk):
            rows = slice(start, start + chunk)
            logits = torch.baddbmm(bias, query[:, rows], key.mT)
            result[:, rows] = logits.logsumexp(-1)
            expected_key[:, rows] = logits.sub_(result[:, rows, None]).exp_() @ key
        ctx.save_for_backward(expected_key)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (expected_key,) = ctx.saved_tensors
        return grad[..., None] * expected_key, None, None, None


def log_sum_exp(
    query: Float[Tensor, "b n k"], key: Float[Tensor, "b m k"], keep: Bool[Tensor, "b m"], chunk: int
) -> Float[Tensor, "b n"]:
    """`[B, n]`: over the keys of the same sample that are kept. Keys are frozen: there is no gradient to them.

    Args:
        chunk: queries that are compared with all keys at once; B * chunk * m numbers are held.
    """
    return _LogSumExp.apply(query, key, keep, chunk)
