"""The plan of a sweep as plain values, a row for each member, and as tables, where identical members share a row."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from hybrid_patch.cost.devices import RESERVE, Device
from hybrid_patch.cost.formatting import format_bytes, table
from hybrid_patch.cost.parallelism import Scaling, scaling_rows
from hybrid_patch.errors import InputError

if TYPE_CHECKING:
    from hybrid_patch.cost.predict import PlannedSweep, Prediction


def plan_report(
    lines: Sequence[Sequence[str]],
    sweep: "PlannedSweep",
    device: Device | None = None,
    max_memory: int | None = None,
    scaling: Scaling | None = None,
) -> dict[str, Any]:
    """The plan of a sweep.

    Args:
        lines: the arguments of each member.
        sweep: their predictions, with `growth` if there is a device or a limit.
        device: adds whether members fit, the largest batch, and times.
        max_memory: bytes per process; members that need more are refused.
        scaling: adds weak scaling; needs a device.
    """
    common = set.intersection(*map(set, lines)) if len(lines) > 1 else set()
    members = []
    for line, prediction in zip(lines, sweep.runs, strict=True):
        name = " ".join(argument for argument in line if argument not in common) or "as configured"
        row: dict[str, Any] = {"member": name, "error": "", "refused": ""}
        if isinstance(prediction, InputError):
            members.append(row | {"error": str(prediction)})
        else:
            members.append(row | _row(prediction, device, max_memory, scaling))
    hours = [row["gpu_hours"] for row in members if row.get("gpu_hours") is not None]
    measured_step = None if scaling is None else scaling.step
    return {
        "device": None if device is None else dataclasses.asdict(device),
        "max_memory": max_memory,
        "links": None if scaling is None else dataclasses.asdict(scaling.links),
        "computing": "the roofline's step" if measured_step is None else f"a step of {measured_step:g} s",
        "overrides": [argument for argument in lines[0] if argument in common],
        "members": members,
        "distinct_shapes": sweep.distinct_shapes,
        "invalid": sum(bool(row["error"]) for row in members),
        "refused": sum(bool(row["refused"]) for row in members),
        "gpu_hours": sum(hours) if hours else None,
    }


def _row(
    prediction: "Prediction", device: Device | None, max_memory: int | None, scaling: Scaling | None
) -> dict[str, Any]:
    """What a member will take, whether it fits the device, and why it is refused."""
    worst, peak = prediction.worst, prediction.peak()
    limits = [*([] if max_memory is None else [max_memory]), *([] if device is None else [device.memory - RESERVE])]
    row = {
        "parameters": prediction.parameters,
        "parameters_of": prediction.parameters_of,
        "tokens": worst.tokens._asdict(),
        "flops": prediction.flops(),
        "flops_per_step": prediction.flops_per_step(),
        "memory_bytes": prediction.memory(),
        "peak_memory_bytes": peak,
        "dominant": worst.record.dominant(),
        "stages": _stages(prediction, device),
        "fits": peak <= min(limits) if limits else None,
        "largest_batch": prediction.largest_batch(min(limits)) if limits else None,
        "step_seconds": None if device is None else prediction.seconds(device),
        "gpu_hours": None if device is None else prediction.hours(device),
        "scaling": None,
    }
    if max_memory is not None and peak > max_memory:
        batch = row["largest_batch"]
        hint = f"trainer.batch_size up to {batch}" if batch else "a smaller model, tile or number of timesteps"
        more = f"needs {format_bytes(peak)}, more than max_memory={format_bytes(max_memory)}"
        row["refused"] = f"{more}: {row['dominant']}; try {hint}"
    if scaling is not None and device is not None:
        computing = prediction.seconds(device)
        row["scaling"] = scaling_rows(prediction.config, prediction.parameters, computing, scaling)
    return row


def _stages(prediction: "Prediction", device: Device | None) -> list[dict[str, Any]]:
    """A row for each stage of a member's curriculum."""
    return [
        {
            "processing_patch_size": stage.processing_patch_size,
            "output_patch_size": stage.output_patch_size,
            "share": stage.share,
            "tokens": cost.tokens._asdict(),
            "flops": cost.record.flops,
            "memory_bytes": cost.record.memory,
            "step_seconds": None if device is None else cost.record.seconds(device),
        }
        for stage, cost in zip(prediction.config.curriculum.stages, prediction.costs, strict=True)
    ]


def plan_tables(report: dict[str, Any]) -> list[Table]:
    """The tables of what `plan_report` gives."""
    rows = grouped([row for row in report["members"] if not row["error"]])
    if not rows:
        return []
    common, device = " ".join(report["overrides"]), report["device"]
    plan = f"Plan{f' of {common}' if common else ''}: {len(report['members'])} members, "
    shapes = f"{report['distinct_shapes']} distinct shapes\nTokens of a sample in one view; FLOPs of a step"
    tables = [
        table(plan + shapes, map(_work, rows)),
        table("Memory of a process at the peak of a step", map(_memory, rows)),
    ]
    if device is not None:
        has, takes = format_bytes(device["memory"]), format_bytes(RESERVE)
        total = {"member": "the sweep", "GPU-hours, at least": f"{report['gpu_hours']:.3g}"}
        title = f"On {device['name']} ({has}, {takes} of it for the process; {device['source']})"
        tables.append(table(title, [*map(_on_device, rows), *([None, total] if len(rows) > 1 else [])]))
    if rows[0]["scaling"] is not None:
        title = f"Weak scaling, from {report['computing']}: communication fully hidden – not hidden at all"
        tables.append(table(title, [line for row in rows for line in (*_scaled(row), None)]))
    return tables


def grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for all members with equal values, named by the arguments that they share."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row | {"member": ""}), []).append(row)
    merged = []
    for group in groups.values():
        first, *others = [row["member"].split(" ") for row in group]
        name = " ".join(argument for argument in first if all(argument in other for other in others))
        merged.append(group[0] | {"member": f"{name} ({len(group)} members)".lstrip() if others else name})
    return merged


def _work(row: dict[str, Any]) -> dict[str, str]:
    forward, backward, tokens = row["flops"]["forward"], row["flops"]["backward"], row["tokens"]
    upsamplers = sum(count for name, count in row["parameters_of"].items() if name.endswith("upsampler"))
    counts = {"parameters": row["parameters"], "upsamplers'": upsamplers}
    counts |= {"visible": tokens["encoder"], "predicted": tokens["decoder"], "fine": tokens["fine"]}
    flops = {part: forward[part] + backward[part] for part in forward}
    flops |= {"forward": sum(forward.values()), "backward": sum(backward.values())}
    shown = {name: f"{count:,}" for name, count in counts.items()}
    return {"member": row["member"], **shown, **{name: f"{number:.2e}" for name, number in flops.items()}}


def _memory(row: dict[str, Any]) -> dict[str, str]:
    sizes = {**row["memory_bytes"], "peak": row["peak_memory_bytes"]}
    shown = {name: format_bytes(size) for name, size in sizes.items()}
    return {"member": row["member"], **shown, "dominated by": row["dominant"]}


def _on_device(row: dict[str, Any]) -> dict[str, str]:
    return {
        "member": row["member"],
        "fits": "yes" if row["fits"] else "no",
        "largest batch": f"{row['largest_batch']:,}",
        "step, s, at least": f"{row['step_seconds']:.3g}",
        "GPU-hours, at least": f"{row['gpu_hours']:.3g}",
    }


def _scaled(row: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "member": row["member"],
            "devices": f"{scaled['world']:,}",
            "samples a step": f"{scaled['samples_per_step']:,}",
            "strategy": scaled["strategy"],
            "sent, MB": f"{scaled['bytes_sent'] / 1e6:,.0f}",
            "sending, s": f"{scaled['sending_seconds']:.2g}",
            "step, s": "–".join(f"{seconds:.3g}" for seconds in scaled["step_seconds"]),
            "efficiency": "–".join(f"{share:.0%}" for share in scaled["efficiency"]),
        }
        for scaled in row["scaling"]
    ]
