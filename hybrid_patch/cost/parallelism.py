"""Data parallelism: the memory of one of several processes, bytes communicated per step, and weak scaling.

Derived from what DDP and FSDP2 do; not yet compared with GPUs. Communication takes at least its bytes at the links'
peak bandwidth; latency, stragglers and other users of the network are left out. A step takes between the longer of
computing and sending, if they overlap fully, and their sum, if they do not overlap.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hybrid_patch.config.schema import Config
from hybrid_patch.cost.devices import Links

if TYPE_CHECKING:
    from hybrid_patch.cost.recorder import MemoryClass

FP32 = 4
"""Bytes of a number: weights, gradients and the optimizer's moments are float32."""


def process_memory(memory: Mapping["MemoryClass", int], config: Config, parameters: int) -> dict["MemoryClass", int]:
    """Bytes of one of a run's processes, by class, from those of a single process with as many samples."""
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


def additional_memory(memory: Mapping["MemoryClass", int], config: Config, parameters: int) -> int:
    """The most bytes that one of several processes has beyond a single one, at any moment of a step.

    Negative where weights are sharded. `memory` is that of a single process at any moment.
    """
    differences = []
    for gradients in (0, gathered_bytes(config, parameters), FP32 * parameters):
        single = {**memory, "gradients": gradients}
        differences.append(sum(process_memory(single, config, parameters).values()) - sum(single.values()))
    return max(differences)


def gathered_bytes(config: Config, parameters: int) -> int:
    """Bytes of sharded weights that are gathered at a time: everything outside the blocks, the block that runs, and the
    next one, which is prefetched."""
    import torch

    from hybrid_patch.model.transformer import Block

    sizes = (config.model.encoder, config.model.decoder)
    with torch.device("meta"):
        blocks = [Block(size.width, size.heads, size.mlp_ratio) for size in sizes]
    counts = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    inside = sum(size.depth * count for size, count in zip(sizes, counts, strict=True))
    return FP32 * min(max(parameters - inside, 0) + 2 * max(counts), parameters)


class Scaling(NamedTuple):
    """What to scale to: numbers of devices, their links, and the seconds of a measured step (None: the roofline's)."""

    worlds: tuple[int, ...]
    links: Links
    step: float | None = None


def bytes_sent(config: Config, parameters: int, samples: int, world: int) -> dict[str, float]:
    """Bytes that each device sends in a step, by strategy; `samples` per device.

    DDP all-reduces gradients in a ring: 2 (N - 1) / N times their bytes. FSDP gathers weights for the forward and again
    for the backward pass, and reduce-scatters gradients, each (N - 1) / N times; weights outside of blocks are gathered
    once, but counted twice here. Both gather the vectors of all samples if there is an instance term.
    """
    share = (world - 1) / world
    vectors = samples * config.masking.views * config.model.encoder.width * FP32
    # All-gathered in the forward pass; their gradients, of the same size, are reduced in the backward pass.
    pooled = 2 * (world - 1) * vectors if config.loss.instance.weight > 0 else 0
    return {"ddp": 2 * share * FP32 * parameters + pooled, "fsdp": 3 * share * FP32 * parameters + pooled}


def scaling_rows(config: Config, parameters: int, computing: float, scaling: Scaling) -> list[dict[str, Any]]:
    """Rows of a run's weak-scaling table, one for each number of devices and strategy, as plain values.

    `computing` are the seconds of a step on one device, without communication, unless `scaling` has a measured one.
    """
    samples = config.trainer.batch_size // config.runtime.world_size
    computing = computing if scaling.step is None else scaling.step
    return [
        {
            "world": world,
            "strategy": strategy,
            "samples_per_step": samples * world,
            "bytes_sent": sent,
            "sending_seconds": (sending := sent / scaling.links.bandwidth(world)),
            "step_seconds": [max(computing, sending), computing + sending],
            "efficiency": [computing / (computing + sending), computing / max(computing, sending)],
        }
        for world in scaling.worlds
        for strategy, sent in bytes_sent(config, parameters, samples, world).items()
    ]
