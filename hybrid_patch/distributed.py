"""The few things that several processes must do together for their losses to be those of one process."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def world_size() -> int:
    """Processes in the group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def global_sum(values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The sum over all processes, outside the graph (for counts)."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gather_rows(rows: Float[Tensor, "b d"]) -> Float[Tensor, "all d"]:
    """The rows of all processes, this one's in their place, with gradients flowing back to every process."""
    if world_size() == 1:
        return rows
    return torch.cat(tuple(all_gather(rows.contiguous())))


def first_row(rows: Float[Tensor, "b d"]) -> int:
    """Where this process's rows begin in `gather_rows`."""
    return dist.get_rank() * len(rows) if world_size() > 1 else 0
