"""log sum_j exp(q_i · k_j) in memory linear in the number of queries, with the gradient to the queries.

A flash-attention kernel works out this sum on its way. Called with value = key its output is `softmax_i · k`, which is
the gradient to q_i: one forward pass gives the sum and its whole gradient. The kernels used here are not public API of
torch: they are kept in this module, behind `log_sum_exp`, and a plain fallback is held to the same tests.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybrid_patch.errors import InputError

Backend = Literal["auto", "flash_cpu", "efficient_cuda", "chunked", "reference"]

NEVER = -1e4
"""Added to the logits of keys that are left out: far below any logit, and small enough to leave them exact."""
KERNEL_WIDTH = 8
"""Kernels are fastest at widths that are a multiple of this."""

Sum = tuple[Float[Tensor, "b n"], Float[Tensor, "b n k"]]
"""The log of the sum for every query, and the expected key, `softmax_i · k`."""


Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Attention with value = key over `[B, 1, n, k]` and `[B, 1, m, k]`: the log of the sum `[B, 1, n]`, and the output."""


def log_sum_exp(
    query: Float[Tensor, "b n k"],
    key: Float[Tensor, "b m k"],
    keep: Bool[Tensor, "b m"] | None,
    backend: Backend = "auto",
    chunk: int = 2**24,
) -> Float[Tensor, "b n"]:
    """`[B, n]`: over the keys of the same sample that are kept (None: all of them).

    Keys are frozen: there is no gradient to them. A sample without a key to keep gives a finite number that means
    nothing, and an exact 0 without any key at all.

    Args:
        backend: `flash_cpu` and `efficient_cuda` are kernels; `chunked` is plain torch on any device; `reference` holds
            the whole matrix; `auto` takes the fastest that can be used.
        chunk: numbers of the similarity matrix that plain torch holds at once.

    Raises InputError for a backend that cannot be used here.
    """
    if 0 in (query.shape[0], query.shape[1], key.shape[1]):
        return query.sum(-1) * 0  # the CPU kernel ends the process on empty input
    chosen = fastest(query) if backend == "auto" else backend
    reason = unusable(chosen, query)
    if reason:
        raise InputError(f"loss.backend={chosen}: {reason}; loss.backend=auto takes one that can be used")
    return _LogSumExp.apply(query, key, keep, chosen, chunk)


def fastest(query: Tensor) -> Backend:
    """The backend that `auto` stands for."""
    return next(b for b in get_args(Backend) if b != "auto" and not unusable(b, query))


def unusable(backend: Backend, query: Tensor) -> str:
    """Why a backend cannot work on these queries; empty if it can."""
    if backend == "flash_cpu":
        if query.device.type != "cpu":
            return f"its kernel runs on a CPU, not on {query.device.type}"
        if not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
            return f"torch {torch.__version__} has no such kernel"
    if backend == "efficient_cuda":
        if query.device.type != "cuda":
            return f"its kernel runs on a GPU, not on {query.device.type}"
        if query.dtype == torch.float64:
            return "its kernel does not take float64"
        if not hasattr(torch.ops.aten, "_scaled_dot_product_efficient_attention"):
            return f"torch {torch.__version__} has no such kernel"
    return ""


class _LogSumExp(torch.autograd.Function):
    """The gradient to q_i is the expected key: as narrow as q, so it is kept from the forward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, keep: Tensor | None, backend: Backend, chunk: int) -> Tensor:
        if backend in _KERNELS:
            total, expected_key = _by_kernel(_KERNELS[backend], query, key, keep)
        else:
            rows = query.shape[1] if backend == "reference" else max(chunk // (len(query) * key.shape[1]), 1)
            total, expected_key = _by_chunks(query, key, keep, rows)
        ctx.save_for_backward(expected_key)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (expected_key,) = ctx.saved_tensors
        return grad[..., None] * expected_key, None, None, None, None


def _by_chunks(query: Tensor, key: Tensor, keep: Tensor | None, rows: int) -> Sum:
    total, expected_key = query.new_empty(query.shape[:2]), torch.empty_like(query)
    bias = query.new_zeros(()) if keep is None else torch.where(keep, 0.0, NEVER).to(query.dtype)[:, None]
    for start in range(0, query.shape[1], rows):
        part = slice(start, start + rows)
        logits = query[:, part] @ key.mT + bias
        total[:, part] = logits.logsumexp(-1)
        expected_key[:, part] = logits.sub_(total[:, part, None]).exp_() @ key
    return total, expected_key


def _by_kernel(kernel: Kernel, query: Tensor, key: Tensor, keep: Tensor | None) -> Sum:
    """The key mask is one more column, 1 in every query and `NEVER` in the keys that are left out."""
    width = query.shape[-1]
    if keep is not None:
        query = torch.cat([query, torch.ones_like(query[..., :1])], dim=-1)
        key = torch.cat([key, torch.where(keep, 0.0, NEVER).to(key.dtype)[..., None]], dim=-1)
    spare = -query.shape[-1] % KERNEL_WIDTH
    total, expected_key = kernel(F.pad(query, (0, spare))[:, None], F.pad(key, (0, spare))[:, None])
    return total[:, 0, : query.shape[1]], expected_key[:, 0, :, :width]


def _flash_cpu(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    output, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, key, 0.0, False, scale=1.0)
    return total, output


def _efficient_cuda(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    output, total, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, key, None, compute_log_sumexp=True, dropout_p=0.0, is_causal=False, scale=1.0
    )
    return total, output


_KERNELS: dict[str, Kernel] = {"flash_cpu": _flash_cpu, "efficient_cuda": _efficient_cuda}
