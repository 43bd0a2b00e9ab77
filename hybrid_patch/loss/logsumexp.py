"""log sum_j exp(q_i · k_j + b_j) in memory linear in the number of queries, with the gradient to the queries.

A flash-attention kernel computes this sum on its way. With value = key its output is `softmax_i · k`, the gradient to
q_i: one forward pass gives both. These kernels are no public API of torch, so all their uses are in this module.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from hybrid_patch.errors import InputError

Backend = Literal["auto", "flash_cpu", "efficient_cuda", "flex", "chunked", "reference"]

NEVER = -1e4
"""The bias of excluded keys: far below any logit, and small enough to leave the others exact."""
CHUNK = {False: 2**19, True: 2**26}
"""Entries of the similarity matrix at once, on a CPU (about what fits its caches) and on a GPU (not measured)."""

Sum = tuple[Float[Tensor, "b n"], Float[Tensor, "b n k"]]
"""The log of the sum for every query, and the expected key, `softmax_i · k`."""


def log_sum_exp(
    query: Float[Tensor, "b n k"],
    key: Float[Tensor, "b m k"],
    bias: Float[Tensor, "b m"],
    backend: Backend = "auto",
    chunk: int | None = None,
) -> Float[Tensor, "b n"]:
    """Over the keys of the same sample, which get no gradient. Raises InputError for a backend that is not available.

    A sample whose keys are all excluded gives a meaningless finite number, and an exact 0 if there is no key at all.

    Args:
        bias: added to each key's logits: `NEVER` excludes it, `log c` counts it c times.
        backend: a kernel, `chunked` (plain torch), `reference` (the whole matrix), or `auto`: the fastest available.
        chunk: entries of the similarity matrix that `chunked` holds at once; None: by the device.
    """
    if 0 in (query.shape[0], query.shape[1], key.shape[1]):
        return query.sum(-1) * 0  # the CPU kernel ends the process on empty input
    chosen = fastest(query) if backend == "auto" else backend
    if reason := unusable(chosen, query):
        raise InputError(f"loss.backend={chosen}: {reason}; loss.backend=auto takes one that can be used")
    with torch.no_grad():
        if chosen in KERNELS:
            total, expected_key = by_kernel(KERNELS[chosen], query, key, bias)
        else:
            entries = chunk or CHUNK[query.device.type == "cuda"]
            rows = query.shape[1] if chosen == "reference" else entries // (len(query) * key.shape[1])
            total, expected_key = _by_rows(query, key, bias, max(rows, 1))
    # The gradient to q_i is the expected key: as narrow as q, so it is kept. What is added is 0.
    return total + ((query - query.detach()) * expected_key).sum(-1)


def fastest(query: Tensor) -> Backend:
    return next(b for b in get_args(Backend) if b != "auto" and not unusable(b, query))


def unusable(backend: Backend, query: Tensor) -> str:
    """Why a backend cannot be used for these queries; empty if it can."""
    kernel = KERNELS.get(backend)
    if kernel is None:
        return ""
    if query.device.type != kernel.device:
        return f"its kernel runs on a {'CPU' if kernel.device == 'cpu' else 'GPU'}, not on {query.device.type}"
    if kernel.device == "cuda" and query.dtype == torch.float64:
        return "its kernel does not take float64"
    if kernel.operator and not hasattr(torch.ops.aten, kernel.operator):
        return f"torch {torch.__version__} has no such kernel"
    return ""


def _by_rows(query: Tensor, key: Tensor, bias: Tensor, rows: int) -> Sum:
    """Some rows of the matrix at a time; the sum comes back from the softmax: `softmax_max = exp(max - logsumexp)`."""
    total, expected_key = query.new_empty(query.shape[:2]), torch.empty_like(query)
    for start in range(0, query.shape[1], rows):
        part = slice(start, start + rows)
        logits = torch.baddbmm(bias[:, None], query[:, part], key.mT)
        weights = logits.softmax(-1)
        total[:, part] = logits.amax(-1) - weights.amax(-1).log()
        expected_key[:, part] = weights @ key
    return total, expected_key


class Kernel(NamedTuple):
    """An attention kernel: `attend` takes query and key `[B, 1, _, k]` and returns output and log of the sum."""

    device: Literal["cpu", "cuda"]
    operator: str  # of `torch.ops.aten`, which a version of torch may lack; empty for public API
    attend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    multiple: int  # of the widths that it is fastest at, or demands (Triton's products have sides of 16 or more)


def by_kernel(kernel: Kernel, query: Tensor, key: Tensor, bias: Tensor) -> Sum:
    """The bias is one more column, 1 in every query; zeros fill up the width."""
    width = query.shape[-1]
    padded = -(-(width + 1) // kernel.multiple) * kernel.multiple
    wide_query, wide_key = (x.new_zeros(len(x), 1, x.shape[1], padded) for x in (query, key))
    wide_query[:, 0, :, :width], wide_query[..., width] = query, 1
    wide_key[:, 0, :, :width], wide_key[:, 0, :, width] = key, bias
    expected_key, total = kernel.attend(wide_query, wide_key)
    return total[:, 0, : query.shape[1]], expected_key[:, 0, :, :width]


def _flash_cpu(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, key, 0.0, False, scale=1.0)


def _efficient_cuda(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    return attend(query, key, key, None, compute_log_sumexp=True, scale=1.0)[:2]


def _flex(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Compiled it is one fused kernel; uncompiled (on a CPU, for tests) it holds the whole matrix."""
    attend = _compiled_flex_attention() if query.is_cuda else cast(Callable[..., Any], flex_attention)
    output, extra = attend(query, key, key, scale=1.0, return_aux=AuxRequest(lse=True))
    return output, extra.lse


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


KERNELS: dict[str, Kernel] = {
    "flash_cpu": Kernel("cpu", "_scaled_dot_product_flash_attention_for_cpu", _flash_cpu, 8),
    "efficient_cuda": Kernel("cuda", "_scaled_dot_product_efficient_attention", _efficient_cuda, 8),
    "flex": Kernel("cuda", "", _flex, 16),
}
