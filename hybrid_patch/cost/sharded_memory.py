"""Memory of one of several processes, derived from that of a single one.

Derived from what DDP and FSDP2 do; not yet compared with measurements on GPUs.
"""

from collections.abc import Mapping

import torch

from hybrid_patch.config.schema import Config
from hybrid_patch.cost.recorder import MemoryClass
from hybrid_patch.model.transformer import Block

FP32 = 4
"""Bytes of a number: weights, gradients and the optimizer's moments are float32."""


def process_memory(memory: Mapping[MemoryClass, int], config: Config, parameters: int) -> dict[MemoryClass, int]:
    """Bytes of one of a run's processes, by class.

    Args:
        memory: of a single process with as many samples.
        parameters: number of trainable parameters.
    """
    runtime, gradients = config.runtime, memory["gradients"]
    if runtime.strategy == "fsdp":
        whole = gathered_bytes(config, parameters)
        # Gradients are computed whole and then reduce-scattered; with accumulation only in the last microbatch.
        unsharded = gradients if runtime.accumulate > 1 else min(whole, gradients)
        return {
            **memory,
            "parameters": memory["parameters"] - FP32 * parameters + FP32 * parameters // runtime.world_size + whole,
            "gradients": gradients // runtime.world_size + unsharded,
            "optimizer": memory["optimizer"] // runtime.world_size,
        }
    copies = FP32 * parameters if runtime.strategy == "ddp" and runtime.world_size > 1 else 0
    return {**memory, "gradients": gradients + copies}  # DDP communicates copies


def additional_memory(memory: Mapping[MemoryClass, int], config: Config, parameters: int) -> int:
    """The most bytes that one of several processes has beyond a single one, at any moment of a step.

    Negative where weights are sharded.

    Args:
        memory: of a single process, at any moment.
    """
    differences = []
    for gradients in (0, gathered_bytes(config, parameters), FP32 * parameters):
        single = {**memory, "gradients": gradients}
        differences.append(sum(process_memory(single, config, parameters).values()) - sum(single.values()))
    return max(differences)


def gathered_bytes(config: Config, parameters: int) -> int:
    """Bytes of sharded weights that are gathered at a time: everything outside the blocks, the block that runs, and the
    next one, which is prefetched."""
    sizes = (config.model.encoder, config.model.decoder)
    with torch.device("meta"):
        blocks = [Block(size.width, size.heads, size.mlp_ratio) for size in sizes]
    counts = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    inside = sum(size.depth * count for size, count in zip(sizes, counts, strict=True))
    return FP32 * min(max(parameters - inside, 0) + 2 * max(counts), parameters)
