"""Collectives that make the losses of several processes those of one process."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def global_sum(values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The sum over all processes, without gradients (for counts and metrics)."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


class _GatherRows(torch.autograd.Function):
    """All processes use a process's rows, so the gradient to these is summed over all."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: Float[Tensor, "b *d"]) -> Float[Tensor, "all *d"]:
    """The rows of all processes in the order of their ranks, with gradients to each process's rows."""
    return rows if world_size() == 1 else _GatherRows.apply(rows)


def first_row(rows: Float[Tensor, "b d"]) -> int:
    """The index of this process's first row in `gather_rows`."""
    return dist.get_rank() * len(rows) if world_size() > 1 else 0
