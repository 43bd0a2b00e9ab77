"""What runs will take, before any is started: `python -m hybrid_patch.plan [overrides, sweeps] [device=NAME]`.

For every member of a sweep: parameters, tokens, FLOPs by part, peak memory by class, and on a device whether it fits,
the largest batch that does, the least time of a step, and GPU-hours. A step of the real code is run on tensors without
numbers. Exit code: 0 all could be planned and fit into `max_memory` · 2 some could not, or do not, or bad input.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from hybrid_patch.config.compose import Sources, sweep_members
from hybrid_patch.config.literal import output_file, refuse_flags, take_paths
from hybrid_patch.config.options import wait_briefly
from hybrid_patch.cost.devices import RESERVE, Device, device_named
from hybrid_patch.cost.weak_scaling import Links, scaling
from hybrid_patch.cost.weak_scaling import table as scaling_table
from hybrid_patch.errors import BAD_INPUT, InputError, input_errors_end
from hybrid_patch.runs.atomic_files import write_json

if TYPE_CHECKING:
    from hybrid_patch.cost.predict import Prediction
    from hybrid_patch.cost.predict_sweep import Member, Planned

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
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
        worlds: numbers of devices to scale to, over `links`, with a measured `step` in seconds if there is one.
        output: a file.
    """

    lines: list[list[str]]
    device: Device | None
    max_memory: int | None
    worlds: tuple[int, ...]
    links: Links | None
    step: float | None
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
        from hybrid_patch.cost.predict_sweep import plan

        limited = request.device is not None or request.max_memory is not None
        report = report_of(request, plan(request.lines, growth=limited))
    Console(width=None if sys.stdout.isatty() else 150).print(*tables(report))
    if request.output is not None:
        write_json(request.output, report)
    for row in _grouped(report["members"]):
        if row["error"] or row["refused"]:
            print(f"error: {row['member']}: {row['error'] or row['refused']}", file=sys.stderr)
    sys.exit(BAD_INPUT if report["refused"] or report["invalid"] else 0)


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
    worlds, links, step = _scaling(own, device)
    return Request(lines, device, max_memory, worlds, links, step, output_file(paths))


def _scaling(own: dict[str, str], device: Device | None) -> tuple[tuple[int, ...], Links | None, float | None]:
    """What `world`, `links` and `step` say."""
    if "world" not in own:
        alone = next((key for key in ("links", "step") if key in own), None)
        if alone is not None:
            raise InputError(f"{alone}={own[alone]}: is for scaling; give world=8,64,512 too")
        return (), None, None
    numbers = own["world"].strip("[]").split(",")
    if not all(number.strip().isdigit() and int(number) > 0 for number in numbers):
        raise InputError(f"world={own['world']}: takes numbers of devices, as world=8,64,512")
    if device is None:
        raise InputError(f"world={own['world']}: needs a device; takes those of device=, as device=h100-80gb")
    links = Links.read(own["links"]) if "links" in own else Links.of(device)
    if "step" not in own:
        return tuple(map(int, numbers)), links, None
    if not re.fullmatch(r"\d+\.?\d*|\.\d+", own["step"]) or not float(own["step"]):
        raise InputError(f"step={own['step']}: takes seconds above 0")
    return tuple(map(int, numbers)), links, float(own["step"])


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(\w*)", text)
    if not found or found[2] not in {"", *UNITS} or not float(found[1]):
        raise InputError(f"max_memory={text}: not a number of bytes; takes a number above 0 with {', '.join(UNITS)}")
    return int(float(found[1]) * UNITS.get(found[2], 1))


def report_of(request: Request, planned: "Planned") -> dict[str, Any]:
    """The plan as plain values."""
    from hybrid_patch.runs.directory import provenance

    common = set.intersection(*(set(line) for line in request.lines)) if len(request.lines) > 1 else set()
    members = [_row(request, member, common) for member in planned.members]
    hours = [row["gpu_hours"] for row in members if row.get("gpu_hours") is not None]
    return {
        "machine": provenance(),
        "device": None if request.device is None else request.device.__dict__,
        "max_memory": request.max_memory,
        "links": None if request.links is None else dataclasses.asdict(request.links),
        "computing": "the roofline's step" if request.step is None else f"a step of {request.step:g} s",
        "overrides": [word for word in request.lines[0] if word in common],
        "members": members,
        "distinct_shapes": planned.distinct,
        "invalid": sum(bool(row["error"]) for row in members),
        "refused": sum(bool(row["refused"]) for row in members),
        "gpu_hours": sum(hours) if hours else None,
    }


def _row(request: Request, member: "Member", common: set[str]) -> dict[str, Any]:
    name = " ".join(word for word in member.arguments if word not in common) or "as it stands"
    row: dict[str, Any] = {"member": name, "error": member.error, "refused": ""}
    prediction = member.prediction
    if prediction is None:
        return row
    device, most = request.device, request.max_memory
    peak = prediction.peak()
    limits = [*([] if most is None else [most]), *([] if device is None else [device.memory - RESERVE])]
    batch = prediction.largest_batch(min(limits)) if limits else None
    dominant = prediction.worst.dominant()
    if most is not None and peak > most:
        would = f"trainer.batch_size up to {batch}" if batch else "a smaller model, tile or number of timesteps"
        row["refused"] = f"needs {size(peak)}, more than max_memory={size(most)}: {dominant}; would do: {would}"
    return row | {
        "parameters": prediction.parameters,
        "parameters_of": prediction.parameters_of,
        "tokens": prediction.worst.tokens._asdict(),
        "flops": prediction.flops(),
        "flops_per_step": prediction.flops_per_step(),
        "memory_bytes": prediction.memory(),
        "peak_memory_bytes": peak,
        "dominant": dominant,
        "stages": [
            {
                "processing_patch_size": stage.processing_patch_size,
                "output_patch_size": stage.output_patch_size,
                "share": stage.share,
                "tokens": cost.tokens._asdict(),
                "flops": cost.flops,
                "memory_bytes": cost.memory,
                "step_seconds": None if device is None else cost.seconds(device),
            }
            for stage, cost in zip(prediction.config.curriculum.stages, prediction.costs, strict=True)
        ],
        "fits": peak <= min(limits) if limits else None,
        "largest_batch": batch,
        "step_seconds": None if device is None else prediction.seconds(device),
        "gpu_hours": None if device is None else prediction.hours(device),
        "scaling": _scaled(request, prediction),
    }


def _scaled(request: Request, prediction: "Prediction") -> list[dict[str, Any]] | None:
    if request.links is None or request.device is None:
        return None
    config = prediction.config
    computing = prediction.seconds(request.device) if request.step is None else request.step
    samples = config.trainer.batch_size // config.runtime.world_size
    return scaling(config, prediction.parameters, samples, computing, request.worlds, request.links)


def tables(report: dict[str, Any]) -> list[Table]:
    """Size and work, memory, and what a device makes of them. Members for which all is equal share a row."""
    rows = _grouped([row for row in report["members"] if not row["error"]])
    if not rows:
        return []
    forward, classes = rows[0]["flops"]["forward"], rows[0]["memory_bytes"]
    common = " ".join(report["overrides"])
    work = _table(
        f"Plan{f' of {common}' if common else ''}: {len(report['members'])} members, "
        f"{report['distinct_shapes']} distinct shapes\nTokens of a sample in one view; FLOPs of a step",
        ["member", "parameters", "upsamplers'", "seen", "asked", "fine", *forward, "forward", "backward"],
    )
    memory = _table("Memory of a process at the peak of a step", ["member", *classes, "peak", "most of it"])
    for row in rows:
        forward, backward = row["flops"]["forward"], row["flops"]["backward"]
        parts = [forward[part] + backward[part] for part in forward]
        totals = [sum(forward.values()), sum(backward.values())]
        work.add_row(
            row["member"],
            f"{row['parameters']:,}",
            f"{sum(number for of, number in row['parameters_of'].items() if of.endswith('upsampler')):,}",
            *(f"{number:,}" for number in row["tokens"].values()),
            *(f"{number:.2e}" for number in (*parts, *totals)),
        )
        sizes = [size(number) for number in (*row["memory_bytes"].values(), row["peak_memory_bytes"])]
        memory.add_row(row["member"], *sizes, row["dominant"])
    found = [work, memory]
    if report["device"] is not None:
        found.append(_device_table(report, rows))
    if rows[0]["scaling"] is not None:
        title = f"Weak scaling, from {report['computing']}: with all that is sent hidden – with none of it"
        found.append(scaling_table(title, [(row["member"], row["scaling"]) for row in rows]))
    return found


def _grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for members that differ in nothing but their words; its name has those that they share."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row | {"member": ""}), []).append(row)
    found = []
    for group in groups.values():
        words = [row["member"].split(" ") for row in group]
        shared = [word for word in words[0] if all(word in others for others in words)]
        name = " ".join(shared) if len(group) == 1 else " ".join([*shared, f"({len(group)} members)"])
        found.append(group[0] | {"member": name})
    return found


def _device_table(report: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    device = report["device"]
    table = _table(
        f"On {device['name']} ({size(device['memory'])}, {size(RESERVE)} of it for the process; {device['source']})",
        ["member", "fits", "largest batch", "step, s, at least", "GPU-hours, at least"],
    )
    for row in rows:
        table.add_row(
            row["member"],
            "yes" if row["fits"] else "no",
            f"{row['largest_batch']:,}",
            f"{row['step_seconds']:.3g}",
            f"{row['gpu_hours']:.3g}",
        )
    if len(rows) > 1:
        table.add_section()
        table.add_row("the sweep", "", "", "", f"{report['gpu_hours']:.3g}")
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in ("member", "most of it") else "right")
    return table


def size(number: float | int) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if number >= UNITS[unit]:
            return f"{number / UNITS[unit]:.3g} {unit}"
    return f"{number:.0f} B"


if __name__ == "__main__":
    main()
