"""The figures: mIoU against cost, and curves over the training; each is drawn both for the page and as a file."""

import functools
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from hybrid_patch.report import formatting
from hybrid_patch.report.curves import Curve
from hybrid_patch.report.grouping import ReportMember
from hybrid_patch.report.summary import Summary

INK = "#1f2328"  # of text and axes in a file; on the page it becomes currentColor
COLOURS = ("#0a7cc4", "#d9642b", "#2a9d62", "#a35fc0", "#c28a00", "#d14b8f", "#4a9fb0", "#8a8f3c", "#b0483f", "#6f7fd0")
"""Of members, in turn: visible on white and on black."""
MARKERS = {"ps=8": "s", "ps=1": "D"}  # of pure members; hybrids are round
MAX_LABELS = 12  # with more points, only the front and the pure members are labelled
MAX_LENGTH = 36  # characters of a label
STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif", "text.parse_math": False},
    **{"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK},
}
GAP, LETTER_WIDTH = 10.0, 4.7  # points (1/72 inch) between a data point and its label, and per letter
MAX_SPAN = 5.0  # intervals of costs end at this multiple of the mean: two seeds on a busy machine may have any


class Plot(NamedTuple):
    """A figure: its file's name without suffix, what draws it, and the colours of the file's legend, by label."""

    name: str
    title: str
    draw: Callable[[Axes], None]
    legend: Mapping[str, str]


COST_AXES = {
    "step_seconds": ("time", "step time", "ms", 1e-3),
    "peak_memory_bytes": ("memory", "peak memory", "MiB", 2.0**20),
    "hours": ("hours", "time of the whole training", "min", 1 / 60),
}
"""How a cost is named in files and in titles, its unit, and the unit's size."""
CURVES = {"loss": "loss", "probe": "mIoU, linear probe", "knn": "mIoU, 20-NN"}
CURVE_AXES = {
    "steps": ("steps", "steps"),
    "minutes": ("time", "minutes of training"),
    "flops": ("FLOPs", "FLOPs (planned)"),
}
"""What curves are drawn over: in titles, and along the axis."""
TICKS: Sequence[tuple[float, Sequence[float]]] = ((8, (1, 1.5, 2, 3, 4, 5, 6, 8)), (80, (1, 2, 5)), (2e3, (1, 3)))
"""The ticks of a cost axis within a power of ten, by the ratio of its ends: those of the first that is larger."""


def colours(summary: Summary) -> dict[str, str]:
    """The colour of each member, by label."""
    return dict(zip((member.label for member in summary.members), itertools.cycle(COLOURS), strict=False))


def cost_plots(summary: Summary) -> list[Plot]:
    """mIoU against each cost that members have. Points have the id `point-<cost>-<number of the member>`."""
    plots = []
    for cost, (file, title, _, _) in COST_AXES.items():
        if members := {i: each for i, each in enumerate(summary.members) if each.comparable("miou", cost)}:
            draw = functools.partial(_draw_costs, summary=summary, members=members, cost=cost)
            plots.append(Plot(f"miou_against_{file}", f"mIoU against {title}", draw, {}))
    return plots


def _draw_costs(axes: Axes, summary: Summary, members: Mapping[int, ReportMember], cost: str) -> None:
    labelled = []
    for number, member in members.items():
        colour = COLOURS[number % len(COLOURS)]
        x, y = _draw_point(axes, member, cost, colour, f"point-{cost}-{number}")
        if len(members) <= MAX_LABELS or member.front or member.kind in MARKERS:
            labelled.append((x, y, member.label, colour))
    axes.set_xscale("log")
    axes.set_xlabel(", ".join(COST_AXES[cost][1:3]))
    axes.set_ylabel("mIoU")
    for title in ("raw bands", "surroundings"):
        if (baseline := summary.baselines.get(title, {}).get("miou")) is None:
            continue
        axes.axhline(baseline, color=INK, lw=0.8, ls=(0, (2, 3)), alpha=0.6)
        axes.annotate(
            title, (1, baseline), (-3, -3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="top", fontsize=8, alpha=0.7,
        )  # fmt: skip
    axes.margins(x=0.18, y=0.12)
    low, high = axes.get_xlim()
    subs = next((subs for ratio, subs in TICKS if high / low < ratio), (1,))
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    _label_points(axes, labelled[:MAX_LABELS])


def _draw_point(axes: Axes, member: ReportMember, cost: str, colour: str, gid: str) -> tuple[float, float]:
    """A member with its intervals, and an invisible disc to hover over; returns its position."""
    score, estimate, unit = member.measures["miou"], member.measures[cost], COST_AXES[cost][-1]
    x, y = estimate.mean / unit, score.mean
    if score.low is not None and score.high is not None:
        axes.plot([x, x], [score.low, score.high], color=colour, lw=1.4, alpha=0.7)
    if estimate.low is not None and estimate.high is not None:
        span = [max(estimate.low / unit, x / MAX_SPAN), min(estimate.high / unit, x * MAX_SPAN)]
        axes.plot(span, [y, y], color=colour, lw=1.4, alpha=0.7)
    fill = colour if score.n > 1 else "none"
    axes.plot(x, y, MARKERS.get(member.kind, "o"), ms=8, color=colour, mfc=fill, mew=1.8)
    if member.front:
        axes.plot(x, y, "o", ms=15, mfc="none", mec=INK, mew=0.7, alpha=0.6)
    axes.plot(x, y, "o", ms=18, color=colour, alpha=0.004)[0].set_gid(gid)
    return x, y


def _label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Place point labels without overlap: each at the nearest of several positions that is free."""
    axes.figure.canvas.draw()  # fixes the axes' position
    scale = 72 / axes.figure.dpi
    (left, bottom), (right, top) = axes.get_window_extent().get_points() * scale
    area = Bbox.from_extents(left, bottom, right + 8, top + 8)
    positions = [(axes.transData.transform((x, y)) * scale).tolist() for x, y, _, _ in points]
    occupied = [Bbox.from_extents(px - 5, py - 5, px + 5, py + 5) for px, py in positions]
    offsets = [(side, up) for up in sorted(range(-6, 10), key=lambda up: abs(up - 0.6)) for side in (1, -1)]
    for (x, y, label, colour), (px, py) in zip(points, positions, strict=True):
        text = shortened(label)
        candidates = [(_label_box(px, py + 11 * up + 6, text, side), side, up) for side, up in offsets]
        inside = [each for each in candidates if area.contains(*each[0].min) and area.contains(*each[0].max)]
        free = (each for each in inside if not any(each[0].overlaps(other) for other in occupied))
        box, side, up = next(free, (inside or candidates)[0])
        occupied.append(box)
        line = {"arrowstyle": "-", "lw": 0.6, "color": colour, "shrinkA": 0, "shrinkB": 5}
        axes.annotate(
            text, (x, y), (side * GAP, 11 * up + 6), textcoords="offset points",
            ha="left" if side > 0 else "right", va="center", fontsize=8.5, color=INK, arrowprops=line if up else None,
        )  # fmt: skip


def _label_box(x: float, y: float, text: str, side: int) -> Bbox:
    """The extent of a label beside a point, in points: to the right (side 1) or left (-1)."""
    near, far = sorted((x + side * GAP, x + side * (GAP + LETTER_WIDTH * len(text))))
    return Bbox.from_extents(near, y - 5, far, y + 5)


def curve_plots(curves: Sequence[Curve], colour: Mapping[str, str]) -> list[list[Plot]]:
    """A row of figures for each of `CURVES` and its scales, over steps, time and FLOPs, as far as runs have them."""
    rows: list[list[Plot]] = []
    for kind in ("loss", "probe", "knn"):
        for number, scale in enumerate(dict.fromkeys(curve.scale for curve in curves if curve.kind == kind)):
            row = []
            for over, (title, _) in CURVE_AXES.items():
                drawn = [curve for curve in curves if (curve.kind, curve.scale) == (kind, scale) and over in curve.x]
                draw = functools.partial(_draw_curves, curves=drawn, over=over, colour=colour)
                legend = {curve.label: colour[curve.label] for curve in drawn}
                file = f"{kind}{number or ''}_over_{title.lower()}"
                words = ", ".join(filter(None, (f"{CURVES[kind]} over {title}", scale)))
                row += [Plot(file, words, draw, legend)] if drawn else []
            rows += [row] if row else []
    return rows


def _draw_curves(axes: Axes, curves: Sequence[Curve], over: str, colour: Mapping[str, str]) -> None:
    for curve in curves:
        ink, marker = colour[curve.label], "o" if len(curve.y) < 12 else ""
        axes.plot(curve.x[over], curve.y, color=ink, lw=1.3, alpha=0.85, marker=marker, ms=3.5)
        for step, name in curve.changes:
            x, y = (float(np.interp(step, curve.x["steps"], values)) for values in (curve.x[over], curve.y))
            axes.plot(x, y, "|", ms=11, mew=1.6, color=ink)
            axes.annotate(name, (x, y), (0, 8), textcoords="offset points", ha="center", fontsize=7, color=ink)
    axes.set_xlabel(CURVE_AXES[over][1])
    axes.set_ylabel(CURVES[curves[0].kind])
    ends = [float(curve.x[over].max()) for curve in curves]
    if over == "minutes" and max(ends) > 8 * min(ends):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif over == "flops":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.flops(value).removesuffix("FLOP")))
        axes.xaxis.set_minor_formatter(NullFormatter())


def rendered(plot: Plot, file_format: str, legend: bool = True) -> bytes:
    """A figure as `svg` or `png`."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": plot.name}):
        figure = Figure(figsize=(4.7, 3.5), layout="constrained", dpi=100)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.12, lw=0.6)
        plot.draw(axes)
        if legend and plot.legend:
            names = list(plot.legend.items())[:MAX_LABELS]
            lines = [Line2D([], [], color=colour, label=shortened(name)) for name, colour in names]
            figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
        buffer = io.BytesIO()
        if file_format == "svg":
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        else:
            figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


def inline(plot: Plot) -> str:
    """A figure as part of the page, in the page's colour of text."""
    svg = rendered(plot, "svg", legend=False).decode().replace(INK, "currentColor")
    head = re.search(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', svg)
    assert head is not None
    return f'<svg {head[1]} role="img" class="figure" id="{plot.name}">{svg[head.end() :]}'


def shortened(name: str) -> str:
    return name if len(name) <= MAX_LENGTH else f"{name[: MAX_LENGTH - 1]}…"
