"""Devices to plan for: published peaks (`devices.yaml`), or this machine, measured for a second."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from hybrid_patch.config.messages import did_you_mean
from hybrid_patch.errors import InputError

RESERVE = 2**30
"""Bytes that a process takes besides its tensors: the CUDA context or Python's libraries, and fragmentation."""
THIS = "this"
TABLE = Path(__file__).with_name("devices.yaml")

SIDE = 1024
"""Side of the matrices whose product is timed."""
COPIED = 2**26
"""Bytes of the tensor whose copy is timed: more than fits into caches."""
SECONDS = 0.3
"""Duration of each measurement."""


@dataclasses.dataclass(frozen=True)
class Device:
    """Peaks of a device.

    Attributes:
        name: in the table.
        memory: bytes.
        fp32, bf16: FLOP/s.
        bandwidth: bytes/s from and to its memory.
        per_node, node_link, network_link: devices per server, and bytes/s from each to the others there and elsewhere
            (`weak_scaling.Links`); None if unknown.
        source: where the numbers come from.
    """

    name: str
    memory: float
    fp32: float
    bf16: float
    bandwidth: float
    source: str
    per_node: int | None = None
    node_link: float | None = None
    network_link: float | None = None


def device_named(name: str) -> Device:
    """The device of that name; `this` is measured. Raises InputError for an unknown name."""
    table = yaml.safe_load(TABLE.read_text())
    if name == THIS:
        return this_device()
    if name not in table:
        names = [*table, THIS]
        raise InputError(f"device={name}: unknown device; takes: {', '.join(names)}{did_you_mean(name, names)}")
    return Device(name, **table[name])


def this_device() -> Device:
    """This machine's GPU, or its CPU: the fastest of a few matrix products and of a few copies."""
    import psutil
    import torch

    from hybrid_patch.cost.timing import Clock

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def fastest(run: Callable[[], object]) -> float:
        run()
        clock, laps, began = Clock(where), [], time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            run()
            laps.append(clock.lap())
        return min(laps)

    def product(dtype: torch.dtype) -> float:
        matrix = torch.randn(SIDE, SIDE, device=where).to(dtype)
        return 2 * SIDE**3 / fastest(lambda: matrix @ matrix)

    copied = torch.zeros(COPIED, dtype=torch.uint8, device=where)
    bandwidth = 2.0 * COPIED / fastest(copied.clone)
    if where.type == "cuda":
        memory, what = float(torch.cuda.get_device_properties(where).total_memory), torch.cuda.get_device_name(where)
    else:
        memory, what = float(psutil.virtual_memory().total), f"CPU, {torch.get_num_threads()} threads"
    return Device(THIS, memory, product(torch.float32), product(torch.bfloat16), bandwidth, f"measured: {what}")
