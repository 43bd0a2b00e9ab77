"""The benchmark's plot: bars with intervals, or growth on logarithmic axes. Needs matplotlib."""

import os
from pathlib import Path
from typing import Any

import numpy as np
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
    figure.suptitle(f"{rounds} rounds, {os.cpu_count()} cores", fontsize="small")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))


def _bars(time: Axes, memory: Axes, report: dict[str, Any]) -> None:
    rows = {name: row for name, row in report["variants"].items() if "failed" not in row}
    steps = [row["step_seconds"] for row in rows.values()]
    medians, lows, highs = (np.array([step[figure] for step in steps]) for figure in ("median", "low", "high"))
    bars = time.bar(list(rows), medians, yerr=(medians - lows, highs - medians), color=COLOUR, capsize=4)
    peaks = np.array([row["peak_memory_bytes"] for row in rows.values()]) / MIB
    for axes, shown, values in ((time, bars, medians), (memory, memory.bar(list(rows), peaks, color=COLOUR), peaks)):
        if len(values) and values.max() > 20 * values.min():
            axes.set_yscale("log")
        axes.bar_label(shown, fmt="%.3g")


def _lines(time: Axes, memory: Axes, report: dict[str, Any]) -> None:
    values = report["sweep"]["values"]
    for name, slopes in report["exponents"].items():
        at_values = zip(map(float, values), (point["variants"][name] for point in report["points"]), strict=True)
        sizes, rows = zip(*((size, row) for size, row in at_values if "failed" not in row), strict=True)
        for axes, figure, costs in (
            (time, "step_seconds", [row["step_seconds"]["median"] for row in rows]),
            (memory, "peak_memory_bytes", [row["peak_memory_bytes"] / MIB for row in rows]),
        ):
            axes.loglog(sizes, costs, marker="o", label=f"{name}: exponent {slopes[figure]:.2f}")
    for axes in (time, memory):
        axes.set_xlabel(report["sweep"]["key"])
        axes.set_xticks([float(value) for value in values], [str(value) for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(fontsize="small", frameon=False)
