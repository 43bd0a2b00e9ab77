"""What runs will take, before any is started: `python -m hybrid_patch.plan [overrides, sweeps] [device=NAME]`.

For every member of a sweep: parameters, tokens, FLOPs by part, peak memory by class, and on a device whether it fits,
the largest batch that does, the least time of a step, and GPU-hours. A step of the real code is run on tensors without
numbers. Exit code: 0 all could be planned and fit into `max_memory` · 2 some could not, or do not, or bad input.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from hybrid_patch.config.compose import Sources, sweep_members
from hybrid_patch.config.literal import output_file, refuse_flags, take_paths
from hybrid_patch.config.options import wait_briefly
from hybrid_patch.config.sweep import each_config
from hybrid_patch.cost.devices import Device, device_named
from hybrid_patch.cost.formatting import UNITS
from hybrid_patch.cost.plan_report import plan_report
from hybrid_patch.cost.plan_tables import grouped, plan_tables
from hybrid_patch.cost.weak_scaling import Links, Scaling
from hybrid_patch.errors import BAD_INPUT, InputError, input_errors_end
from hybrid_patch.runs.atomic_files import write_json

USAGE = f"""{__doc__}
  key=value           overrides as in hybrid_patch.train (its --help lists them)
  key=a,b             a sweep: one member for each combination, as with its -m
  device=NAME         h100-80gb, h200, a100-40gb, a100-80gb, l40s, or this: this machine, measured for a second
  world=8,64,512      weak scaling: the step on so many devices, with what DDP and FSDP2 send; needs device
  links=8,450,50      for it: devices per node, GB/s of each to its node and to others (else those usual for the device)
  step=SECONDS        for it: a measured step of one device, instead of the least by the roofline
  max_memory=BYTES    refuse members that need more per process, as 40GiB or 500MB
  output=FILE         write the plan as JSON
"""
OWN_KEYS = ("device", "max_memory", "world", "links", "step", "output")


class Request(NamedTuple):
    """What the command line asks for.

    Attributes:
        lines: the arguments of each member.
        device: to plan for.
        max_memory: bytes.
        scaling: to how many devices, and over which links.
        output: a file.
    """

    lines: list[list[str]]
    device: Device | None
    max_memory: int | None
    scaling: Scaling | None
    output: Path | None


def main() -> None:
    """The command."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        return
    wait_briefly()
    with input_errors_end():
        request = read(sys.argv[1:])
        print(f"planning {len(request.lines)} members", file=sys.stderr, flush=True)
        report = plan(request)
    Console(width=None if sys.stdout.isatty() else 150).print(*plan_tables(report))
    if request.output is not None:
        write_json(request.output, report)
    for row in grouped(report["members"]):
        if row["error"] or row["refused"]:
            print(f"error: {row['member']}: {row['error'] or row['refused']}", file=sys.stderr)
    sys.exit(BAD_INPUT if report["refused"] or report["invalid"] else 0)


def plan(request: Request) -> dict[str, Any]:
    """The report that is asked for, as `plan_report` makes it."""
    from hybrid_patch.cost.predict_sweep import predict_sweep

    limited = request.device is not None or request.max_memory is not None
    predicted = predict_sweep(request.lines, each_config(request.lines, Sources()), growth=limited)
    return plan_report(predicted, request.device, request.max_memory, request.scaling)


def read(arguments: Sequence[str]) -> Request:
    """The request of a command line; raises InputError. The members' configs are not judged yet."""
    refuse_flags(arguments, OWN_KEYS)
    paths, rest = take_paths(arguments, ["output"])
    own: dict[str, str] = {}
    overrides = []
    for argument in rest:
        key, _, value = argument.partition("=")
        if key in own:
            raise InputError(f"{argument}: given twice; before it was {own[key]}")
        if key in OWN_KEYS:
            own[key] = value
        else:
            overrides.append(argument)
    lines = sweep_members(overrides, Sources())
    if not lines:
        raise InputError(f"{' '.join(overrides)}: a sweep of no members; one of its keys has no value")
    max_memory = _bytes(own["max_memory"]) if "max_memory" in own else None
    device = device_named(own["device"]) if "device" in own else None
    return Request(lines, device, max_memory, _scaling(own, device), output_file(paths))


def _scaling(own: dict[str, str], device: Device | None) -> Scaling | None:
    """What `world`, `links` and `step` say."""
    if "world" not in own:
        alone = next((key for key in ("links", "step") if key in own), None)
        if alone is not None:
            raise InputError(f"{alone}={own[alone]}: is for scaling; give world=8,64,512 too")
        return None
    numbers = own["world"].strip("[]").split(",")
    if not all(number.strip().isdigit() and int(number) > 0 for number in numbers):
        raise InputError(f"world={own['world']}: takes numbers of devices, as world=8,64,512")
    if device is None:
        raise InputError(f"world={own['world']}: needs a device; takes those of device=, as device=h100-80gb")
    links = Links.read(own["links"]) if "links" in own else Links.of(device)
    if "step" not in own:
        return Scaling(tuple(map(int, numbers)), links)
    if not re.fullmatch(r"\d+\.?\d*|\.\d+", own["step"]) or not float(own["step"]):
        raise InputError(f"step={own['step']}: takes seconds above 0")
    return Scaling(tuple(map(int, numbers)), links, float(own["step"]))


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(\w*)", text)
    if not found or found[2] not in {"", *UNITS} or not float(found[1]):
        raise InputError(f"max_memory={text}: not a number of bytes; takes a number above 0 with {', '.join(UNITS)}")
    return int(float(found[1]) * UNITS.get(found[2], 1))


if __name__ == "__main__":
    main()
