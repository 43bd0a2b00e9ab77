"""Weak scaling of data parallelism: bytes communicated per step, and the efficiency that leaves.

The number of samples per device is constant. Communication takes at least its bytes at the links' peak bandwidth;
latency, stragglers and other users of the network are left out. A step takes between the longer of computing and
sending, if they overlap fully, and their sum, if they do not overlap.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from rich.table import Table

from hybrid_patch.config.schema import Config
from hybrid_patch.cost.devices import Device
from hybrid_patch.cost.formatting import new_table
from hybrid_patch.errors import InputError

FP32 = 4
"""Bytes of a number."""


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

    @classmethod
    def of(cls, device: Device) -> "Links":
        """The links of a device's usual server. Raises InputError if they are unknown."""
        if device.per_node is None or device.node_link is None or device.network_link is None:
            raise InputError(f"device={device.name}: its links are not known; give them, as links=8,450,50")
        return cls(device.per_node, device.node_link, device.network_link)

    def bandwidth(self, world: int) -> float:
        """Bytes/s of each device in a ring over all.

        There is one ring per device of a node, each through a network card of its own: a device's link carries all of
        them, and so do the cards of a node together.
        """
        return self.node if world <= self.per_node else min(self.node, self.per_node * self.network)


class Scaling(NamedTuple):
    """What to scale to: numbers of devices, their links, and the seconds of a measured step (None: the roofline's)."""

    worlds: tuple[int, ...]
    links: Links
    step: float | None = None


class Sent(NamedTuple):
    """Bytes that each device sends in a step.

    Attributes:
        ddp: gradients, all-reduced in a ring: 2 (N - 1) / N times their bytes.
        fsdp: weights gathered for the forward and again for the backward pass, and gradients reduce-scattered, each
            (N - 1) / N times their bytes. Weights outside of blocks are gathered once, but counted twice here.

    Both include the vectors of all samples if there is an instance term.
    """

    ddp: float
    fsdp: float


def bytes_sent(config: Config, parameters: int, samples: int, world: int) -> Sent:
    """What each device sends in a step.

    Args:
        parameters: trainable numbers.
        samples: per device.
    """
    share = (world - 1) / world
    vectors = samples * config.masking.views * config.model.encoder.width * FP32
    # All-gathered in the forward pass; their gradients, of the same size, are reduced in the backward pass.
    pooled = 2 * (world - 1) * vectors if config.loss.instance.weight > 0 else 0
    return Sent(2 * share * FP32 * parameters + pooled, 3 * share * FP32 * parameters + pooled)


def scaling_rows(config: Config, parameters: int, computing: float, scaling: Scaling) -> list[dict[str, Any]]:
    """Rows of a run's weak-scaling table, one for each number of devices and strategy, as plain values.

    Args:
        parameters: trainable numbers.
        computing: seconds of a step on one device, without communication, unless `scaling` has a measured one.
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
        for strategy, sent in bytes_sent(config, parameters, samples, world)._asdict().items()
    ]


def scaling_table(title: str, members: list[tuple[str, list[dict[str, Any]]]]) -> Table:
    """Members by name, with their rows."""
    columns = ("member", "devices", "samples a step", "strategy", "sent, MB", "sending, s", "step, s", "efficiency")
    table = new_table(title, columns, ("member", "strategy"))
    for name, rows in members:
        for row in rows:
            table.add_row(
                name,
                f"{row['world']:,}",
                f"{row['samples_per_step']:,}",
                row["strategy"],
                f"{row['bytes_sent'] / 1e6:,.0f}",
                f"{row['sending_seconds']:.2g}",
                "–".join(f"{seconds:.3g}" for seconds in row["step_seconds"]),
                "–".join(f"{share:.0%}" for share in row["efficiency"]),
            )
        table.add_section()
    return table
