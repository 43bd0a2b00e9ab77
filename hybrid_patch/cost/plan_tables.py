"""The tables of a plan: model and work, memory, device, weak scaling. Identical members share a row."""

import json
from typing import Any

from rich.table import Table

from hybrid_patch.cost.devices import RESERVE
from hybrid_patch.cost.formatting import format_bytes, new_table
from hybrid_patch.cost.weak_scaling import scaling_table

TEXT_COLUMNS = ("member", "dominated by")


def plan_tables(report: dict[str, Any]) -> list[Table]:
    """The tables of what `plan_report` gives."""
    rows = grouped([row for row in report["members"] if not row["error"]])
    if not rows:
        return []
    tables = [_work_table(report, rows), _memory_table(rows)]
    if report["device"] is not None:
        tables.append(_device_table(report, rows))
    if rows[0]["scaling"] is not None:
        title = f"Weak scaling, from {report['computing']}: communication fully hidden – not hidden at all"
        tables.append(scaling_table(title, [(row["member"], row["scaling"]) for row in rows]))
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


def _work_table(report: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    parts, common = list(rows[0]["flops"]["forward"]), " ".join(report["overrides"])
    table = new_table(
        f"Plan{f' of {common}' if common else ''}: {len(report['members'])} members, "
        f"{report['distinct_shapes']} distinct shapes\nTokens of a sample in one view; FLOPs of a step",
        ["member", "parameters", "upsamplers'", "visible", "predicted", "fine", *parts, "forward", "backward"],
        TEXT_COLUMNS,
    )
    for row in rows:
        forward, backward = row["flops"]["forward"], row["flops"]["backward"]
        flops = [*(forward[part] + backward[part] for part in parts), sum(forward.values()), sum(backward.values())]
        upsamplers = sum(count for name, count in row["parameters_of"].items() if name.endswith("upsampler"))
        table.add_row(
            row["member"],
            *(f"{count:,}" for count in (row["parameters"], upsamplers, *row["tokens"].values())),
            *(f"{number:.2e}" for number in flops),
        )
    return table


def _memory_table(rows: list[dict[str, Any]]) -> Table:
    columns = ["member", *rows[0]["memory_bytes"], "peak", "dominated by"]
    table = new_table("Memory of a process at the peak of a step", columns, TEXT_COLUMNS)
    for row in rows:
        sizes = [*row["memory_bytes"].values(), row["peak_memory_bytes"]]
        table.add_row(row["member"], *map(format_bytes, sizes), row["dominant"])
    return table


def _device_table(report: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    device = report["device"]
    table = new_table(
        f"On {device['name']} ({format_bytes(device['memory'])}, {format_bytes(RESERVE)} of it for the process; "
        f"{device['source']})",
        ["member", "fits", "largest batch", "step, s, at least", "GPU-hours, at least"],
        TEXT_COLUMNS,
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
