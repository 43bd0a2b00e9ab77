"""FSDP2: every process holds a shard of the weights, their gradients and the optimizer's state.

A block's weights are gathered when it is computed, forward and backward; those outside the blocks once a step. Its
packages are imported by those who shard: they are a third of a start's imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


def shard(training_module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard every transformer block, then everything outside the blocks: pure data parallelism.

    Weights are sent in float32 and rounded by autocast, as without shards: the strategy does not change results.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    ranks = mesh["data_parallel"]
    for name, module in training_module.named_modules():
        if name.rpartition(".")[0].endswith("blocks"):  # ours, or those of a released encoder
            fully_shard(module, mesh=ranks)
    fully_shard(training_module, mesh=ranks)
    register_fsdp_forward_method(training_module, "microbatch_contexts")  # uses the weights too, outside of `forward`
    return training_module


def is_sharded(tensors: Mapping[str, Tensor]) -> bool:
    return any(map(is_shard, tensors.values()))


def is_shard(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor, told by what only these have."""
    return hasattr(tensor, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor; if it is sharded, all processes must call this."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A full tensor, sharded as another one if that is. Nothing is sent."""
    if not is_shard(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
