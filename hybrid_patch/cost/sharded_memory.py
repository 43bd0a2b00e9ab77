"""What a process holds of a run that several share, from what one alone would hold.

Worked out from what DDP and FSDP2 do; not held to a GPU.
"""

from collections.abc import Mapping

import torch

from hybrid_patch.config.schema import Config
from hybrid_patch.cost.recorder import MemoryClass
from hybrid_patch.model.transformer import Block

FP32 = 4
"""Bytes of a number: weights, their gradients and the optimizer's moments are in float32."""


def of_one(memory: Mapping[MemoryClass, int], config: Config, parameters: int) -> dict[MemoryClass, int]:
    """The bytes of one of the processes of a run, by class.

    Args:
        memory: of a process alone that has as many samples.
        parameters: trainable numbers.
    """
    runtime, gradients = config.runtime, memory["gradients"]
    if runtime.strategy == "fsdp":
        whole = whole_at_a_time(config, parameters)
        # Gradients are whole where they are made, and are summed in parts: of a step in parts only in the last one.
        made = gradients if runtime.accumulate > 1 else min(whole, gradients)
        return {
            **memory,
            "parameters": memory["parameters"] - FP32 * parameters + FP32 * parameters // runtime.world_size + whole,
            "gradients": gradients // runtime.world_size + made,
            "optimizer": memory["optimizer"] // runtime.world_size,
        }
    copies = FP32 * parameters if runtime.strategy == "ddp" and runtime.world_size > 1 else 0
    return {**memory, "gradients": gradients + copies}  # DDP sends copies


def most_more(memory: Mapping[MemoryClass, int], config: Config, parameters: int) -> int:
    """The most bytes that one of the processes holds beyond a process alone, at whatever moment of a step.

    Below zero where weights are sharded.

    Args:
        memory: at any moment.
    """
    found = []
    for gradients in (0, whole_at_a_time(config, parameters), FP32 * parameters):
        alone = {**memory, "gradients": gradients}
        found.append(sum(of_one(alone, config, parameters).values()) - sum(alone.values()))
    return max(found)


def whole_at_a_time(config: Config, parameters: int) -> int:
    """Bytes of the weights that are whole at a time where they are sharded: all outside of blocks, and two blocks, one
    of which is on its way."""
    sizes = (config.model.encoder, config.model.decoder)
    with torch.device("meta"):
        blocks = [Block(size.width, size.heads, size.mlp_ratio) for size in sizes]
    numbers = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    inside = sum(size.depth * count for size, count in zip(sizes, numbers, strict=True))
    return FP32 * min(max(parameters - inside, 0) + 2 * max(numbers), parameters)
