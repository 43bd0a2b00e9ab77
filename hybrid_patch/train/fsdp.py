"""FSDP2: every process holds a part of the weights, their gradients and the optimizer's state.

A block's weights are gathered when it is computed, going forward and going back; those outside the blocks once a step.
"""

from collections.abc import Mapping

from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from hybrid_patch.loss.objective import Objective
from hybrid_patch.model.transformer import Block


def strategy(processes: int) -> ModelParallelStrategy:
    """Fabric's, for so many processes in all: each has other samples, none has another part of the same product."""
    return ModelParallelStrategy(_shard, data_parallel_size=processes, tensor_parallel_size=1)


def _shard(objective: Objective, mesh: DeviceMesh) -> Objective:
    """Shard every transformer block, and then what is outside of them.

    Weights travel in float32, whatever the precision of the blocks: autocast rounds them where they are used, as it
    does without shards, so that the strategy changes no result.
    """
    ranks = mesh["data_parallel"]
    for module in objective.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=ranks)
    fully_shard(objective, mesh=ranks)
    register_fsdp_forward_method(objective, "shares")  # which uses the weights too, outside of `forward`
    return objective


def is_sharded(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any of a state's tensors is in parts."""
    return any(isinstance(tensor, DTensor) for tensor in tensors.values())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be in parts; then all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def parted(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, cut as another is that may be in parts. Nothing is sent."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
