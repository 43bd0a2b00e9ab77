"""Compare what variants cost: `python -m hybrid_patch.benchmark variants=[ps8,hybrid,ps1] rounds=7 [overrides]`.

Real training steps on fixed data, forward, backward and optimizer apart. The variants take turns in random order within
each round, so that a drift of the machine hits all alike, and are compared by the ratios of their times in the same
round. The first step of each, in which torch.compile works, is told apart. Peak memory is that of a process of its own.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from hybrid_patch.config.compose import compose
from hybrid_patch.config.literal import output_file, refuse_flags, take_keys, take_paths
from hybrid_patch.config.options import wait_briefly
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.formatting import format_interval, log, new_table
from hybrid_patch.errors import InputError, input_errors_end, require_extra
from hybrid_patch.runs.atomic_files import write_json

VARIANTS = {
    "ps8": ["patch=ps8"],
    "ps4": ["patch=ps4"],
    "ps2": ["patch=ps2"],
    "ps1": ["patch=ps1"],
    "hybrid": ["patch=hybrid", "upsampler=bilinear"],
    "guided": ["patch=hybrid", "upsampler=guided"],
    "learned": ["patch=hybrid", "upsampler=learned"],
    "subpixel": ["patch=hybrid", "upsampler=subpixel"],
}
"""Overrides by name; `define.<name>='[…]'` adds to them."""

USAGE = f"""{__doc__}
  variants=[a,b]      what is compared: {", ".join(VARIANTS)}, or your own (default [ps8,hybrid,ps1])
  define.NAME='[…]'   your own: a list of overrides, as define.mine='[patch=hybrid,upsampler=subpixel]'
  sweep.KEY=[a,b,c]   all of it for several values of a key, with the exponent of growth: sweep.data.tile=[32,64,128]
  rounds=N            how often each is timed (default 7)
  warmup=N            how often each is run before, after a first step of its own (default 2)
  limit_s=SECONDS     a variant whose first steps take longer is left out (default 300)
  output=FILE.json    write the report, and a plot beside it (FILE.png)
  key=value           an override for all variants, as in hybrid_patch.train (its --help lists them)
"""
OWN_KEYS = ("variants", "define.NAME", "sweep.KEY", "rounds", "warmup", "limit_s", "output")
DEFAULTS = {"variants": "[ps8,hybrid,ps1]", "rounds": "7", "warmup": "2", "limit_s": "300"}


class Plan(NamedTuple):
    """What the command line asks for.

    Attributes:
        points: the variants' configs, for each value of the key that is swept; a single point without a sweep.
        key: the key that is swept, or None.
        values: its values, as they are written.
    """

    points: list[dict[str, Config]]
    key: str | None
    values: list[str]
    rounds: int
    warmup: int
    limit_s: int
    output: Path | None


def main() -> None:
    """The command."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        return
    with input_errors_end():
        plan = read(sys.argv[1:])
        if plan.output is not None:
            require_extra("report", "matplotlib")
    wait_briefly()
    report = measure(plan)
    Console(width=None if sys.stdout.isatty() else 150).print(*tables(report))
    if plan.output is not None:
        from hybrid_patch.cost.plot import draw_benchmark

        write_json(plan.output, report)
        draw_benchmark(report, plan.output.with_suffix(".png"))


def read(arguments: Sequence[str]) -> Plan:
    """The plan of a command line; raises InputError, naming the variant whose config is bad."""
    refuse_flags(arguments, OWN_KEYS)
    paths, rest = take_paths(arguments, ["output"])
    own, others = take_keys(rest, DEFAULTS)
    defined = dict(VARIANTS)
    swept: dict[str, list[str]] = {}
    overrides = []
    for argument in others:
        key, _, value = argument.partition("=")
        if key.startswith("define."):
            defined[key.removeprefix("define.")] = _list(key, value)
        elif key.startswith("sweep."):
            swept[key.removeprefix("sweep.")] = _list(key, value)
        else:
            overrides.append(argument)
    names = _list("variants", own["variants"])
    unknown = [name for name in names if name not in defined]
    if unknown or not names:
        known = ", ".join(defined)
        raise InputError(
            f"variants={own['variants']}: {unknown or 'none named'}; takes: {known}, or define.<name>='[…]'"
        )
    if len(swept) > 1:
        raise InputError(f"sweep.{' sweep.'.join(swept)}: one key at a time can be swept")
    swept_key = next(iter(swept), None)
    values = swept[swept_key] if swept_key else []
    if swept_key and not values:
        raise InputError(f"sweep.{swept_key}=[]: no value; write sweep.{swept_key}=[a,b]")
    points = [[f"{swept_key}={value}"] for value in values] if swept_key else [[]]
    return Plan(
        [{name: _config(name, [*overrides, *point, *defined[name]]) for name in names} for point in points],
        swept_key,
        values,
        _count("rounds", own["rounds"]),
        _count("warmup", own["warmup"]),
        _count("limit_s", own["limit_s"]),
        output_file(paths),
    )


def _config(name: str, overrides: list[str]) -> Config:
    try:
        return compose(["logger=none", "evaluation=none", *overrides])
    except InputError as error:
        hint = f" (the benchmark's own keys: {', '.join(OWN_KEYS)})" if "unknown key" in str(error) else ""
        raise InputError(f"variant {name}: {error}{hint}") from error


def measure(plan: Plan) -> dict[str, Any]:
    """The report: the machine and what `compare` gives; of a sweep, that for each value, and exponents of growth."""
    from hybrid_patch.cost.compare import compare, exponents
    from hybrid_patch.runs.provenance import provenance

    points = []
    for number, configs in enumerate(plan.points):
        if plan.key is not None:
            log(f"{plan.key}={plan.values[number]}")
        points.append(compare(configs, plan.rounds, plan.warmup, plan.limit_s, log))
    machine = {"machine": provenance(), "command": " ".join(sys.argv[1:])}
    if plan.key is None:
        return {**machine, **points[0]}
    for point, value in zip(points, plan.values, strict=True):
        point["value"] = f"{plan.key}={value}"
    sweep = {"key": plan.key, "values": plan.values}
    return {**machine, "sweep": sweep, "points": points, "exponents": exponents(plan.values, points)}


def tables(report: dict[str, Any]) -> list[Table]:
    """Step times and ratios, for each value of a sweep, and how costs grow with it."""
    points = report.get("points", [report])
    found = [table for point in points for table in (times_table(point), ratios_table(point))]
    return [*found, exponents_table(report)] if "sweep" in report else found


def times_table(report: dict[str, Any]) -> Table:
    """A row per variant."""
    columns = (
        *("variant", "first, s", "step, s", "planned", "forward", "backward", "optimizer"),
        *("peak MiB", "planned", "pixels/s", "GFLOP/s"),
    )
    table = new_table(
        f"One training step, median (lowest–highest) of {report['rounds']} rounds  {report.get('value', '')}",
        columns,
        ("variant",),
        "GFLOP/s in brackets: the share of what this machine reaches in a matrix product. Planned in brackets: "
        "planned / measured - 1; planned seconds are the roofline's, a lower bound",
    )
    for name, row in report["variants"].items():
        if "failed" in row:
            table.add_row(name, row["failed"], style="dim")
            continue
        planned, error = row["planned"], row["planned_error"]
        table.add_row(
            name,
            f"{row['first_step_seconds']:.3f}",
            format_interval(row["step_seconds"], ".3f"),
            f"{planned['step_seconds']:.3f} ({error['step_seconds']:+.0%})",
            *(f"{row[f'{part}_seconds']['median']:.3f}" for part in ("forward", "backward", "optimizer")),
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
            f"{planned['peak_memory_bytes'] / 2**20:.0f} ({error['peak_memory_bytes']:+.0%})",
            f"{row['pixels_per_second']:,.0f}",
            f"{row['flops_per_second'] / 1e9:,.0f} ({row['share_of_peak_flops']:.0%})",
        )
    return table


def ratios_table(report: dict[str, Any]) -> Table:
    """A row per pair of variants, the slower one first, and the null."""
    columns = ("pair", "step time", "interval", "peak memory")
    title = "Ratios, paired within rounds"
    table = new_table(title, columns, ("pair",), "interval: order statistics around the median")
    for pair, row in report["ratios"].items():
        if row["step_seconds"]["median"] >= 1:
            table.add_row(pair, *_ratio(row["step_seconds"]), f"{row['peak_memory_bytes']:.2f}")
    if "null" in report:
        null = report["null"]
        table.add_row(f"{null['variant']} against itself", *_ratio(null["step_seconds"]), "", style="dim")
    return table


def _ratio(step: dict[str, float]) -> tuple[str, str]:
    """A ratio, and its interval; no ratio where the interval spans 1."""
    median = "no difference shown" if step["low"] <= 1 <= step["high"] else f"{step['median']:.2f}"
    return median, f"{step['low']:.2f}–{step['high']:.2f}"


def exponents_table(report: dict[str, Any]) -> Table:
    """How step time and memory grow with the key that was swept."""
    table = Table("variant", "step time", "peak memory", title=f"Exponents: cost ∝ ({report['sweep']['key']})^x")
    for name, row in report["exponents"].items():
        table.add_row(name, *(f"{row[figure]:.2f}" for figure in ("step_seconds", "peak_memory_bytes")))
    return table


def _list(key: str, text: str) -> list[str]:
    """A list as Hydra writes it: `[a,b]`."""
    if not re.fullmatch(r"\[.*\]", text, re.DOTALL):
        raise InputError(f"{key}={text}: not a list; write {key}='[a,b]'")
    if "=" not in text:
        return [str(item) for item in yaml.safe_load(text)]
    return [item.strip() for item in re.split(r",(?![^\[{]*[\]}])", text[1:-1]) if item.strip()]


def _count(key: str, text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise InputError(f"{key}={text}: not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    main()
