"""Measure and compare what variants cost: a training step's time by phase, and its peak memory.

Real training steps on fixed data, timed by forward, backward and optimizer. The variants take turns in random order
within each round, so that a drift of the machine hits all alike, and are compared by the ratios of their times in the
same round. The first step of each, in which torch.compile works, is reported separately. Peak memory is measured in a
process of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from rich.table import Table

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.field_types import Count
from hybrid_patch.config.options import Items, Option, OutputFile, Overrides, Positional, option_names
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.formatting import format_interval, log, publish, table
from hybrid_patch.errors import InputError, require_extra

VARIANTS: dict[str, tuple[str, ...]] = {
    "ps8": ("patch=ps8",),
    "ps4": ("patch=ps4",),
    "ps2": ("patch=ps2",),
    "ps1": ("patch=ps1",),
    "hybrid": ("patch=hybrid", "upsampler=bilinear"),
    "guided": ("patch=hybrid", "upsampler=guided"),
    "learned": ("patch=hybrid", "upsampler=learned"),
    "nearest": ("patch=hybrid", "upsampler=nearest"),
    "subpixel": ("patch=hybrid", "upsampler=subpixel"),
    "transposed": ("patch=hybrid", "upsampler=transposed"),
}
"""Overrides by name; `define.<name>='[…]'` adds to them."""
TIMES_CAPTION = (
    "GFLOP/s in brackets: the share of what this machine reaches in a matrix product. Planned in brackets: planned / "
    "measured - 1; planned seconds are the roofline's, a lower bound"
)
RunOverrides = Annotated[
    tuple[str, ...], Overrides({"key=value": "overrides as in hybrid-patch train, whose --help lists them"})
]


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
    overrides: RunOverrides = ()

    def __post_init__(self) -> None:
        check_variants(self.variants, [*VARIANTS, *self.define], ", or define.<name>='[…]'")
        if len(self.sweep) > 1:
            raise InputError(f"sweep.{' sweep.'.join(self.sweep)}: one key at a time can be swept")
        for key, values in self.sweep.items():
            if not values:
                raise InputError(f"sweep.{key}=[]: no value; write sweep.{key}=[a,b]")
        if self.output is not None:
            require_extra("report", "matplotlib")
        self.points  # noqa: B018  # errors of its configs before anything is measured

    @cached_property
    def points(self) -> dict[str, dict[str, Config]]:
        """The variants' configs by value of the key that is swept, `key=value`; without a sweep by an empty text."""
        words = [f"{key}={value}" for key, values in self.sweep.items() for value in values] or [""]
        return {word: {name: self._config(name, [word] if word else []) for name in self.variants} for word in words}

    def _config(self, name: str, point: list[str]) -> Config:
        variant = (VARIANTS | self.define)[name]
        try:
            return compose(["logger=none", "evaluation=none", *self.overrides, *point, *variant])
        except InputError as error:
            names = ", ".join(option_names(BenchmarkOptions))
            hint = f" (the benchmark's own keys: {names})" if "unknown key" in str(error) else ""
            raise InputError(f"variant {name}: {error}{hint}") from error


def check_variants(given: Sequence[str], names: Sequence[str], others: str = "") -> None:
    """Raises InputError if no variant is given, or one that is not known; `others` says what could be given too."""
    unknown = [name for name in given if name not in names]
    if unknown or not given:
        wrong = f"unknown {', '.join(unknown)}" if unknown else "none named"
        raise InputError(f"variants=[{','.join(given)}]: {wrong}; takes: {', '.join(names)}{others}")


def benchmark_command(options: BenchmarkOptions) -> None:
    """Measure, print the tables, write the report."""
    report = measure(options)
    publish(report, tables(report), options.output)
    if options.output is not None:
        from hybrid_patch.cost.plot import draw_benchmark

        draw_benchmark(report, options.output.with_suffix(".png"))


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """What `compare` gives; of a sweep, that for each value, and exponents of growth."""
    from hybrid_patch.cost.compare import compare, exponents

    points = []
    for value, configs in options.points.items():
        if value:
            log(value)
        points.append({"value": value, **compare(configs, options.rounds, options.warmup, options.limit_s, log)})
    if not options.sweep:
        return points[0]
    ((key, values),) = options.sweep.items()
    return {"sweep": {"key": key, "values": values}, "points": points, "exponents": exponents(values, points)}


def tables(report: dict[str, Any]) -> list[Table]:
    """Step times and ratios, for each value of a sweep, and how costs grow with it."""
    shown = []
    for point in report.get("points", [report]):
        title = f"One training step, median (lowest–highest) of {point['rounds']} rounds  {point['value']}"
        shown.append(table(title, [_times(name, row) for name, row in point["variants"].items()], TIMES_CAPTION))
        if "null" in point:
            caption = "interval: order statistics around the median"
            shown.append(table("Ratios, paired within rounds", _ratios(point), caption))
    if "sweep" in report:
        columns = {"step time": "step_seconds", "peak memory": "peak_memory_bytes"}
        rows = [
            {"variant": name, **{column: f"{row[figure]:.2f}" for column, figure in columns.items()}}
            for name, row in report["exponents"].items()
        ]
        shown.append(table(f"Exponents: cost ∝ ({report['sweep']['key']})^x", rows))
    return shown


def _times(name: str, row: dict[str, Any]) -> dict[str, str]:
    """A variant's row."""
    if "failed" in row:
        return {"variant": name, "first, s": row["failed"]}
    planned, error = row["planned"], row["planned_error"]
    return {
        "variant": name,
        "first, s": f"{row['first_step_seconds']:.3f}",
        "step, s": format_interval(row["step_seconds"], ".3f"),
        "planned, s": f"{planned['step_seconds']:.3f} ({error['step_seconds']:+.0%})",
        **{part: f"{row[f'{part}_seconds']['median']:.3f}" for part in ("forward", "backward", "optimizer")},
        "peak MiB": f"{row['peak_memory_bytes'] / 2**20:.0f}",
        "planned MiB": f"{planned['peak_memory_bytes'] / 2**20:.0f} ({error['peak_memory_bytes']:+.0%})",
        "pixels/s": f"{row['pixels_per_second']:,.0f}",
        "GFLOP/s": f"{row['flops_per_second'] / 1e9:,.0f} ({row['share_of_peak_flops']:.0%})",
    }


def _ratios(report: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A row per pair of variants, the slower one first, and the null; no ratio where its interval spans 1."""
    null = report["null"]
    for pair, row in (report["ratios"] | {f"{null['variant']} against itself": null}).items():
        step = row["step_seconds"]
        if step["median"] >= 1 or row is null:
            yield {
                "pair": pair,
                "step time": "no difference shown" if step["low"] <= 1 <= step["high"] else f"{step['median']:.2f}",
                "interval": f"{step['low']:.2f}–{step['high']:.2f}",
                "peak memory": "" if row is null else f"{row['peak_memory_bytes']:.2f}",
            }


if __name__ == "__main__":
    run_command("hybrid-patch benchmark", __doc__, BenchmarkOptions, benchmark_command)
