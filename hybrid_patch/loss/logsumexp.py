"""log sum_j exp(q_i · k_j + b_j) in memory linear in the number of queries, with the gradient to the queries.

A flash-attention kernel computes this sum on its way. Called with value = key its output is `softmax_i · k`, which is
the gradient to q_i: one forward pass gives the sum and its whole gradient. The kernels used here are not public API of
torch: they are confined to this module, behind `log_sum_exp`, and a plain fallback passes the same tests.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from hybrid_patch.errors import InputError

Backend = Literal["auto", "flash_cpu", "efficient_cuda", "flex", "chunked", "reference"]

NEVER = -1e4
"""The bias of excluded keys: far below any logit, and small enough to leave the others exact."""
CHUNK = {False: 2**19, True: 2**26}
"""Entries of the similarity matrix at once, on a CPU (about what fits its caches) and on a GPU (not measured)."""

Sum = tuple[Float[Tensor, "b n"], Float[Tensor, "b n k"]]
"""The log of the sum for every query, and the expected key, `softmax_i · k`."""


Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Attention with value = key over `[B, 1, n, k]` and `[B, 1, m, k]`: the log of the sum `[B, 1, n]`, and the output."""


def log_sum_exp(
    query: Float[Tensor, "b n k"],
    key: Float[Tensor, "b m k"],
    bias: Float[Tensor, "b m"],
    backend: Backend = "auto",
    chunk: int | None = None,
) -> Float[Tensor, "b n"]:
    """`[B, n]`: over the keys of the same sample.

    Keys are frozen: there is no gradient to them. A sample whose keys are all excluded gives a meaningless finite
    number, and an exact 0 if there is no key at all.

    Args:
        bias: added to the logits of each key: `NEVER` excludes it, `log c` counts it c times.
        backend: `flash_cpu`, `efficient_cuda` and `flex` are kernels; `chunked` is plain torch on any device;
            `reference` holds the whole matrix; `auto` takes the fastest that is available.
        chunk: entries of the similarity matrix that plain torch holds at once; None: by the device.

    Raises InputError for a backend that is not available.
    """
    if 0 in (query.shape[0], query.shape[1], key.shape[1]):
        return query.sum(-1) * 0  # the CPU kernel ends the process on empty input
    chosen = fastest(query) if backend == "auto" else backend
    reason = unusable(chosen, query)
    if reason:
        raise InputError(f"loss.backend={chosen}: {reason}; loss.backend=auto takes one that can be used")
    return _LogSumExp.apply(query, key, bias, chosen, chunk)


def fastest(query: Tensor) -> Backend:
    """The backend that `auto` chooses."""
    return next(b for b in get_args(Backend) if b != "auto" and not unusable(b, query))


def unusable(backend: Backend, query: Tensor) -> str:
    """Why a backend cannot be used for these queries; empty if it can."""
    if backend == "flash_cpu":
        if query.device.type != "cpu":
            return f"its kernel runs on a CPU, not on {query.device.type}"
        if not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
            return f"torch {torch.__version__} has no such kernel"
    if backend in ("efficient_cuda", "flex"):
        if query.device.type != "cuda":
            return f"its kernel runs on a GPU, not on {query.device.type}"
        if query.dtype == torch.float64:
            return "its kernel does not take float64"
        if backend == "efficient_cuda" and not hasattr(torch.ops.aten, "_scaled_dot_product_efficient_attention"):
            return f"torch {torch.__version__} has no such kernel"
    return ""


class _LogSumExp(torch.autograd.Function):
    """The gradient to q_i is the expected key: as narrow as q, so it is saved in the forward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, bias: Tensor, backend: Backend, chunk: int | None) -> Tensor:
        if backend in _KERNELS:
            total, expected_key = _by_kernel(*_KERNELS[backend], query, key, bias)
        elif backend == "reference":
            total, expected_key = _reference(query, key, bias)
        else:
            total, expected_key = _by_chunks(query, key, bias, chunk or CHUNK[query.device.type == "cuda"])
        ctx.save_for_backward(expected_key)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (expected_key,) = ctx.saved_tensors
        return grad[..., None] * expected_key, None, None, None, None


def _reference(query: Tensor, key: Tensor, bias: Tensor) -> Sum:
    logits = query @ key.mT + bias[:, None]
    return logits.logsumexp(-1), logits.softmax(-1) @ key


def _by_chunks(query: Tensor, key: Tensor, bias: Tensor, chunk: int) -> Sum:
    """Some rows of the matrix at a time: as few as fit a processor's cache, or as many as keep a GPU busy.

    The softmax is one pass where sums and exponentials apart are several; the sum comes back from its largest entry,
    `softmax_max = exp(max - logsumexp)`.
    """
    total, expected_key = query.new_empty(query.shape[:2]), torch.empty_like(query)
    rows = max(chunk // (len(query) * key.shape[1]), 1)
    for start in range(0, query.shape[1], rows):
        part = slice(start, start + rows)
        logits = torch.baddbmm(bias[:, None], query[:, part], key.mT)
        weights = logits.softmax(-1)
        total[:, part] = logits.amax(-1) - weights.amax(-1).log()
        expected_key[:, part] = weights @ key
    return total, expected_key


def _by_kernel(kernel: Kernel, multiple: int, query: Tensor, key: Tensor, bias: Tensor) -> Sum:
    """The bias is one more column, 1 in every query; zeros fill up the width to a multiple of what the kernel likes."""
    width = query.shape[-1]
    padded = -(-(width + 1) // multiple) * multiple
    wide_query, wide_key = (x.new_zeros(len(x), 1, x.shape[1], padded) for x in (query, key))
    wide_query[:, 0, :, :width], wide_query[..., width] = query, 1
    wide_key[:, 0, :, :width], wide_key[:, 0, :, width] = key, bias
    total, expected_key = kernel(wide_query, wide_key)
    return total[:, 0, : query.shape[1]], expected_key[:, 0, :, :width]


def _flash_cpu(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    output, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, key, 0.0, False, scale=1.0)
    return total, output


def _efficient_cuda(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    output, total, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, key, None, compute_log_sumexp=True, dropout_p=0.0, is_causal=False, scale=1.0
    )
    return total, output


def _flex(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Compiled it is one fused kernel; uncompiled (on a CPU, for tests) it holds the whole matrix."""
    attend = _compiled_flex_attention() if query.is_cuda else cast(Callable[..., Any], flex_attention)
    output, extra = attend(query, key, key, scale=1.0, return_aux=AuxRequest(lse=True))
    return extra.lse, output


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


_KERNELS: dict[str, tuple[Kernel, int]] = {
    "flash_cpu": (_flash_cpu, 8),
    "efficient_cuda": (_efficient_cuda, 8),
    "flex": (_flex, 16),
}
"""With the width that each is fastest at a multiple of, or demands (Triton's products have sides of 16 or more)."""
