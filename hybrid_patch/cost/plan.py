"""Predict what every member of a sweep will cost, before anything runs, and whether it fits a device.

For every member: parameters, tokens, FLOPs by part, peak memory by class, and for a device whether it fits, the largest
batch that does, a lower bound of a step's time, and GPU-hours. A step of the real code runs on tensors without numbers.
Exit code: 0 all members are valid and fit into `max_memory` · 2 some are not or do not, or bad input.
"""

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator, ByteSize, Field, InstanceOf

from hybrid_patch.config.command import run_command
from hybrid_patch.config.field_types import Count
from hybrid_patch.config.options import Option, OutputFile, Overrides, Positional, Seconds, split_list
from hybrid_patch.config.sources import Sources
from hybrid_patch.config.sweep import each_config, sweep_members
from hybrid_patch.cost.devices import Device, Links, device_named
from hybrid_patch.cost.formatting import publish
from hybrid_patch.cost.parallelism import Scaling
from hybrid_patch.cost.plan_report import grouped, plan_report, plan_tables
from hybrid_patch.errors import BAD_INPUT, DONE, InputError


def _numbers(text: str) -> list[str]:
    return split_list(f"[{text.strip('[]')}]")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What the command line asks for. The members' configs are judged when they are planned."""

    device: Annotated[
        InstanceOf[Device] | None,
        BeforeValidator(device_named),
        Option("NAME", "h100-80gb, h200, a100-40gb, a100-80gb, l40s, or this: this machine, measured for a second"),
    ] = None
    max_memory: Annotated[
        Annotated[ByteSize, Field(gt=0)] | None,
        Option("BYTES", "refuse members that need more per process, as 40GiB or 500MB"),
    ] = None
    world: Annotated[
        tuple[Count, ...],
        BeforeValidator(_numbers),
        Option("8,64,512", "weak scaling: the step on that many devices, with what DDP and FSDP2 send; needs device"),
    ] = ()
    links: Annotated[
        InstanceOf[Links] | None,
        BeforeValidator(Links.read),
        Option(
            "8,450,50",
            "for world: devices per node, GB/s of each to its node and to others (default: usual for the device)",
        ),
    ] = None
    step: Annotated[
        Seconds | None,
        Option("SECONDS", "for world: a measured step of one device (default: the least by the roofline)"),
    ] = None
    output: Annotated[OutputFile | None, Positional("FILE", "write the plan as JSON")] = None
    overrides: Annotated[
        tuple[str, ...],
        Overrides(
            {
                "key=value": "overrides as in hybrid-patch train, whose --help lists them",
                "key=a,b": "a sweep: one member for each combination, as with train -m",
            }
        ),
    ] = ()

    def __post_init__(self) -> None:
        if not self.lines:
            raise InputError(f"{' '.join(self.overrides)}: a sweep of no members; one of its keys has no value")
        for key in ("links", "step"):
            if getattr(self, key) is not None and not self.world:
                raise InputError(f"{key}: is for weak scaling; give world=8,64,512 too")
        self.scaling  # noqa: B018  # its errors before anything is planned

    @cached_property
    def lines(self) -> list[list[str]]:
        """The arguments of each member."""
        return sweep_members(self.overrides, Sources())

    @property
    def scaling(self) -> Scaling | None:
        """To how many devices, and over which links. Raises InputError if the device's links are not known."""
        if not self.world:
            return None
        if self.device is None:
            raise InputError("world: needs a device; give one, as device=h100-80gb")
        links = self.links or self.device.links
        if links is None:
            raise InputError(f"device={self.device.name}: its links are not known; give them, as links=8,450,50")
        return Scaling(self.world, links, self.step)


def plan_command(options: PlanOptions) -> int:
    """Print the plan, and an error for each member that cannot be planned or needs too much."""
    print(f"planning {len(options.lines)} members", file=sys.stderr, flush=True)
    report = plan(options)
    publish(report, plan_tables(report), options.output)
    for row in grouped(report["members"]):
        if row["error"] or row["refused"]:
            print(f"error: {row['member']}: {row['error'] or row['refused']}", file=sys.stderr)
    return BAD_INPUT if report["refused"] or report["invalid"] else DONE


def plan(options: PlanOptions) -> dict[str, Any]:
    """The report that is asked for, as `plan_report` makes it."""
    from hybrid_patch.cost.predict import predict_sweep

    limited = options.device is not None or options.max_memory is not None
    predicted = predict_sweep(each_config(options.lines, Sources()), growth=limited)
    return plan_report(options.lines, predicted, options.device, options.max_memory, options.scaling)


if __name__ == "__main__":
    run_command("hybrid-patch plan", __doc__, PlanOptions, plan_command)
