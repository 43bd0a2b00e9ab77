"""Devices to plan for: published peaks (`devices.yaml`), or this machine, measured for a second."""

import dataclasses
import math
from pathlib import Path

import yaml

from hybrid_patch.config.machine import machine_memory
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
class Links:
    """Bandwidth between devices.

    Attributes:
        per_node: devices of a node.
        node: bytes/s that a device sends to others of its node, while it receives as much.
        network: bytes/s that a node sends to other nodes, per device.
    """

    per_node: int
    node: float
    network: float

    @classmethod
    def read(cls, text: str) -> "Links":
        """Of `8,450,50`: devices per node, and the two links in 10^9 bytes/s. Raises InputError."""
        try:
            per_node, node, network = (float(number) for number in text.strip("[]").split(","))
        except ValueError:
            per_node = node = network = 0.0
        if not (per_node >= 1 and per_node.is_integer() and 0 < node < math.inf and 0 < network < math.inf):
            raise InputError(
                f"links={text}: takes devices per node, and GB/s of each to its node and to others: links=8,450,50"
            )
        return cls(int(per_node), 1e9 * node, 1e9 * network)

    def bandwidth(self, world: int) -> float:
        """Bytes/s of each device in a ring over all.

        There is one ring per device of a node, each through a network card of its own: a device's link carries all of
        them, and so do the cards of a node together.
        """
        return self.node if world <= self.per_node else min(self.node, self.per_node * self.network)


@dataclasses.dataclass(frozen=True)
class Device:
    """Peaks of a device.

    Attributes:
        memory: bytes.
        fp32, bf16: FLOP/s.
        bandwidth: bytes/s from and to its memory.
        source: where the numbers come from.
        links: of a usual server; None if unknown.
        gpus: what torch calls such cards.
    """

    name: str
    memory: float
    fp32: float
    bf16: float
    bandwidth: float
    source: str
    links: Links | None = None
    gpus: tuple[str, ...] = ()


def device_named(name: str) -> Device:
    """The device of that name; `this` is measured. Raises InputError for an unknown name."""
    if name == THIS:
        return this_device()
    table = _table()
    if name not in table:
        names = [*table, THIS]
        raise InputError(f"device={name}: unknown device; takes: {', '.join(names)}{did_you_mean(name, names)}")
    return table[name]


def device_of_gpu(gpu: str) -> Device | None:
    """The device in the table that torch calls by this name; None if it is not there."""
    return next((device for device in _table().values() if gpu in device.gpus), None)


def _table() -> dict[str, Device]:
    return {
        name: Device(name, **row | {"links": Links(**row["links"]), "gpus": tuple(row["gpus"])})
        for name, row in yaml.safe_load(TABLE.read_text()).items()
    }


def this_device() -> Device:
    """This machine's GPU, or its CPU: the fastest of some matrix products and of some copies."""
    import torch
    from torch.utils.benchmark import Timer

    def fastest(statement: str, tensor: torch.Tensor) -> float:
        timer = Timer(statement, globals={"x": tensor}, num_threads=torch.get_num_threads())
        return min(timer.blocked_autorange(min_run_time=SECONDS).times)

    def product(dtype: torch.dtype) -> float:
        return 2 * SIDE**3 / fastest("x @ x", torch.randn(SIDE, SIDE, device=where).to(dtype))

    where, memory = "cpu", machine_memory()
    what = f"CPU, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        where, memory = "cuda", torch.cuda.get_device_properties(0).total_memory
        what = torch.cuda.get_device_name()
    bandwidth = 2 * COPIED / fastest("x.clone()", torch.zeros(COPIED, dtype=torch.uint8, device=where))
    return Device(THIS, float(memory), product(torch.float32), product(torch.bfloat16), bandwidth, f"measured: {what}")
