"""The benchmark's plot: bars with intervals, or growth on logarithmic axes. Needs matplotlib."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from hybrid_patch.runs.atomic_files import write_whole

COLOUR = "#2e6fbb"
MIB = 2**20


def draw_benchmark(report: dict[str, Any], path: Path) -> None:
    """Plot a benchmark's report: a sweep as lines over its values, anything else as bars."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    time, memory = figure.subplots(1, 2)
    (_lines if "sweep" in report else _bars)(time, memory, report)
    time.set_title("step time, s" if "sweep" in report else "step time, s (median and interval)")
    memory.set_title("peak memory, MiB")
    for axes in (time, memory):
        axes.spines[["top", "right"]].set_visible(False)
    rounds = report.get("points", [report])[0]["rounds"]
    figure.suptitle(f"{rounds} rounds, {report['machine']['machine']['cpus']} cores", fontsize="small")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))


def _bars(time: Axes, memory: Axes, report: dict[str, Any]) -> None:
    rows = {name: row for name, row in report["variants"].items() if "failed" not in row}
    steps = [row["step_seconds"] for row in rows.values()]
    medians = [step["median"] for step in steps]
    below = [step["median"] - step["low"] for step in steps]
    above = [step["high"] - step["median"] for step in steps]
    time.bar(list(rows), medians, yerr=(below, above), color=COLOUR, capsize=4)
    peaks = [row["peak_memory_bytes"] / MIB for row in rows.values()]
    memory.bar(list(rows), peaks, color=COLOUR)
    for axes, values in ((time, medians), (memory, peaks)):
        if values and max(values) > 20 * min(values):
            axes.set_yscale("log")
        for number, value in enumerate(values):
            axes.annotate(
                f"{value:.3g}", (number, value), ha="left", va="bottom", xytext=(4, 2), textcoords="offset points"
            )


def _lines(time: Axes, memory: Axes, report: dict[str, Any]) -> None:
    key, values = report["sweep"]["key"], report["sweep"]["values"]
    for name, slopes in report["exponents"].items():
        rows = [(float(v), p["variants"][name]) for v, p in zip(values, report["points"], strict=True)]
        rows = [(size, row) for size, row in rows if "failed" not in row]
        sizes = [size for size, _ in rows]
        for axes, figure, costs in (
            (time, "step_seconds", [row["step_seconds"]["median"] for _, row in rows]),
            (memory, "peak_memory_bytes", [row["peak_memory_bytes"] / MIB for _, row in rows]),
        ):
            axes.loglog(sizes, costs, marker="o", label=f"{name}: exponent {slopes[figure]:.2f}")
    for axes in (time, memory):
        axes.set_xlabel(key)
        axes.set_xticks([float(value) for value in values], [str(value) for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(fontsize="small", frameon=False)
