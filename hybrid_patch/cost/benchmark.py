"""Measure and compare what variants cost: a training step's time by phase, and its peak memory.

Real training steps on fixed data, timed by forward, backward and optimizer. The variants take turns in random order
within each round, so that a drift of the machine hits all alike, and are compared by the ratios of their times in the
same round. The first step of each, in which torch.compile works, is reported separately. Peak memory is measured in a
process of its own.
"""

import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from rich.table import Table

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.options import Count, Items, Option, OutputFile, Overrides, Positional, option_names
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.formatting import format_interval, log, new_table, publish
from hybrid_patch.errors import InputError, require_extra

VARIANTS: dict[str, tuple[str, ...]] = {
    "ps8": ("patch=ps8",),
    "ps4": ("patch=ps4",),
    "ps2": ("patch=ps2",),
    "ps1": ("patch=ps1",),
    "hybrid": ("patch=hybrid", "upsampler=bilinear"),
    "guided": ("patch=hybrid", "upsampler=guided"),
    "learned": ("patch=hybrid", "upsampler=learned"),
    "subpixel": ("patch=hybrid", "upsampler=subpixel"),
}
"""Overrides by name; `define.<name>='[…]'` adds to them."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What the command line asks for."""

    variants: Annotated[
        Items[str], Option("[a,b]", f"what is compared: {', '.join(VARIANTS)}, or your own by define")
    ] = ("ps8", "hybrid", "ps1")
    define: Annotated[
        dict[str, Items[str]],
        Option("NAME=[…]", "your own: a list of overrides, as define.mine='[patch=hybrid,upsampler=subpixel]'"),
    ] = field(default_factory=dict)
    sweep: Annotated[
        dict[str, Items[str]],
        Option(
            "KEY=[a,b]", "all of it for several values of a key, and the exponent of growth: sweep.data.tile=[8,16]"
        ),
    ] = field(default_factory=dict)
    rounds: Annotated[Count, Option("N", "how often each is timed")] = 7
    warmup: Annotated[Count, Option("N", "how often each is run before, after a first step of its own")] = 2
    limit_s: Annotated[Count, Option("SECONDS", "a variant whose first steps take longer is left out")] = 300
    output: Annotated[
        OutputFile | None, Positional("FILE.json", "write the report, and a plot beside it (FILE.png)")
    ] = None
    overrides: Annotated[
        tuple[str, ...],
        Overrides({"key=value": "an override for all variants, as in hybrid-patch train, whose --help lists them"}),
    ] = ()

    def __post_init__(self) -> None:
        defined = VARIANTS | self.define
        unknown = [name for name in self.variants if name not in defined]
        if unknown or not self.variants:
            wrong = f"unknown {', '.join(unknown)}" if unknown else "none named"
            choices = f"{', '.join(defined)}, or define.<name>='[…]'"
            raise InputError(f"variants=[{','.join(self.variants)}]: {wrong}; takes: {choices}")
        if len(self.sweep) > 1:
            raise InputError(f"sweep.{' sweep.'.join(self.sweep)}: one key at a time can be swept")
        if self.key is not None and not self.values:
            raise InputError(f"sweep.{self.key}=[]: no value; write sweep.{self.key}=[a,b]")
        if self.output is not None:
            require_extra("report", "matplotlib")
        self.points  # noqa: B018  # errors of its configs before anything is measured

    @property
    def key(self) -> str | None:
        """The key that is swept, or None."""
        return next(iter(self.sweep), None)

    @property
    def values(self) -> tuple[str, ...]:
        """Its values, as they are written."""
        return self.sweep[self.key] if self.key is not None else ()

    @cached_property
    def points(self) -> list[dict[str, Config]]:
        """The variants' configs, for each value of the key that is swept; a single point without a sweep."""
        points = [[f"{self.key}={value}"] for value in self.values] or [[]]
        return [{name: self._config(name, point) for name in self.variants} for point in points]

    def _config(self, name: str, point: list[str]) -> Config:
        variant = (VARIANTS | self.define)[name]
        try:
            return compose(["logger=none", "evaluation=none", *self.overrides, *point, *variant])
        except InputError as error:
            names = ", ".join(option_names(BenchmarkOptions))
            hint = f" (the benchmark's own keys: {names})" if "unknown key" in str(error) else ""
            raise InputError(f"variant {name}: {error}{hint}") from error


def main() -> None:
    """The command."""
    run_command("hybrid-patch benchmark", __doc__, BenchmarkOptions, benchmark_command)


def benchmark_command(options: BenchmarkOptions) -> None:
    """Measure, print the tables, write the report."""
    report = measure(options)
    publish(report, tables(report), options.output)
    if options.output is not None:
        from hybrid_patch.cost.plot import draw_benchmark

        draw_benchmark(report, options.output.with_suffix(".png"))


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """The report: the machine and what `compare` gives; of a sweep, that for each value, and exponents of growth."""
    from hybrid_patch.cost.compare import compare, exponents
    from hybrid_patch.runs.provenance import provenance

    points = []
    for number, configs in enumerate(options.points):
        if options.key is not None:
            log(f"{options.key}={options.values[number]}")
        points.append(compare(configs, options.rounds, options.warmup, options.limit_s, log))
    machine = {"machine": provenance(), "command": " ".join(sys.argv[1:])}
    if options.key is None:
        return {**machine, **points[0]}
    for point, value in zip(points, options.values, strict=True):
        point["value"] = f"{options.key}={value}"
    sweep = {"key": options.key, "values": options.values}
    return {**machine, "sweep": sweep, "points": points, "exponents": exponents(options.values, points)}


def tables(report: dict[str, Any]) -> list[Table]:
    """Step times and ratios, for each value of a sweep, and how costs grow with it."""
    points = report.get("points", [report])
    for_points = [table for point in points for table in (times_table(point), ratios_table(point))]
    return [*for_points, exponents_table(report)] if "sweep" in report else for_points


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


if __name__ == "__main__":
    main()
