"""The figures: worth against cost, and curves over the training; each drawn once, for the page and as a file."""

import io
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

from hybrid_patch.report import formatting
from hybrid_patch.report.curves import Curve

INK = "#1f2328"
"""Of text and axes in a figure's file; on the page they take the colour of the page's text."""
COLOURS = ("#0a7cc4", "#d9642b", "#2a9d62", "#a35fc0", "#c28a00", "#d14b8f", "#4a9fb0", "#8a8f3c", "#b0483f", "#6f7fd0")
"""Of members, in turn: of middle lightness, to be seen on white and on black."""
MARKERS = {"ps=8": "s", "ps=1": "D"}
"""Of pure members; hybrids are round."""
NAMED = 12
"""Members up to which each point has its name beside it; of more only the front and the pure ones have."""
SIZE = (4.7, 3.5)
LONGEST = 36
"""Characters of a name."""
STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif", "text.parse_math": False},
    **{"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK},
}
GAP, WIDTH = 10.0, 4.7
"""Points (1/72 inch) between a point and its name, and of a letter's width."""
CUT = 5.0
"""Intervals of costs are drawn up to so many times their mean."""


class Drawn(NamedTuple):
    """A figure.

    Attributes:
        name: its file's, without suffix.
        title: above it.
        draw: it on axes.
        legend: by label, colour: what its file needs and the page has elsewhere.
    """

    name: str
    title: str
    draw: Callable[[Axes], None]
    legend: Mapping[str, str]


def colours(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The colour of each member, by label."""
    return {row["label"]: COLOURS[number % len(COLOURS)] for number, row in enumerate(rows)}


class Axis(NamedTuple):
    """Of a cost: what it is called in files and titles, its unit, and how many of what was measured make one."""

    file: str
    title: str
    unit: str
    size: float


AXES = {
    "step_seconds": Axis("time", "step time", "ms", 1e-3),
    "peak_memory_bytes": Axis("memory", "peak memory", "MiB", 2.0**20),
    "hours": Axis("hours", "time of all training", "min", 1 / 60),
}


def scatter(summary: Mapping[str, Any], cost: str) -> Drawn | None:
    """mIoU against a cost; None if no member has both. Points have the id `point-<cost>-<number of the member>`."""
    rows = [
        (number, row)
        for number, row in enumerate(summary["members"])
        if {"miou", cost} <= row["measures"].keys() and not any(row["apart"].values())
    ]
    if not rows:
        return None
    colour = colours(summary["members"])
    axis = AXES[cost]

    def draw(axes: Axes) -> None:
        named = []
        for number, row in rows:
            y = row["measures"]["miou"]
            x, x_low, x_high = (row["measures"][cost][key] for key in ("mean", "low", "high"))
            x, own, marker = x / axis.size, colour[row["label"]], MARKERS.get(row["kind"], "o")
            if y["low"] is not None:
                axes.plot([x] * 2, [y["low"], y["high"]], color=own, lw=1.4, alpha=0.7)
            if x_low is not None:  # two seeds on a busy machine may span anything: that is cut off
                span = [max(x_low / axis.size, x / CUT), min(x_high / axis.size, x * CUT)]
                axes.plot(span, [y["mean"]] * 2, color=own, lw=1.4, alpha=0.7)
            axes.plot(x, y["mean"], marker, ms=8, color=own, mfc=own if y["n"] > 1 else "none", mew=1.8)
            if row["front"]:
                axes.plot(x, y["mean"], "o", ms=15, mfc="none", mec=INK, mew=0.7, alpha=0.6)
            hit = axes.plot(x, y["mean"], "o", ms=18, color=own, alpha=0.004)[0]
            hit.set_gid(f"point-{cost}-{number}")
            if len(rows) <= NAMED or row["front"] or row["kind"] in MARKERS:
                named.append((x, y["mean"], row["label"], own))
        axes.set_xscale("log")
        axes.set_xlabel(f"{axis.title}, {axis.unit}")
        axes.set_ylabel("mIoU")
        _raw_bands(axes, summary["baselines"].get("raw bands"))
        axes.margins(x=0.18, y=0.12)
        low, high = axes.get_xlim()
        subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if high / low < 8 else (1, 2, 5) if high / low < 80 else (1, 3)
        axes.xaxis.set_major_locator(LogLocator(subs=subs if high / low < 2e3 else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        _name(axes, named[:NAMED])

    return Drawn(f"worth_against_{axis.file}", f"mIoU against {axis.title}", draw, {})


def _raw_bands(axes: Axes, value: float | None) -> None:
    """A line where raw bands are: what embeddings must be above to be worth anything."""
    if value is not None:
        axes.axhline(value, color=INK, lw=0.8, ls=(0, (2, 3)), alpha=0.6)
        axes.annotate(
            "raw bands", (1, value), (-3, -3), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="top", fontsize=8, alpha=0.7,
        )  # fmt: skip


def _name(axes: Axes, named: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside points, each at the nearest of several places where it lies on no other name and no point."""
    axes.figure.canvas.draw()  # places are known after that
    scale = 72 / axes.figure.dpi
    bounds = axes.get_window_extent()
    points = [(axes.transData.transform((x, y)) * scale).tolist() for x, y, _, _ in named]
    taken: list[Box] = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    right_end, top_end = bounds.x1 * scale, bounds.y1 * scale
    for (x, y, label, colour), (px, py) in zip(named, points, strict=True):
        words = shortened(label)
        width = WIDTH * len(words)
        places = [
            (box, right, up)
            for up in sorted(range(-6, 10), key=lambda step: abs(step - 0.6))
            for right in (True, False)
            if (box := _box(px, py + 11 * up + 6, width, right)).right < right_end + 8 or not right
            if box.left > bounds.x0 * scale and bounds.y0 * scale < box.bottom and box.top < top_end + 8
        ]
        free = [place for place in places if not any(place[0].meets(other) for other in taken)]
        box, right, up = (free or places or [(_box(px, py, width, True), True, 0)])[0]
        taken.append(box)
        line = {"arrowstyle": "-", "lw": 0.6, "color": colour, "shrinkA": 0, "shrinkB": 5}
        axes.annotate(
            words, (x, y), (GAP if right else -GAP, 11 * up + 6), textcoords="offset points",
            ha="left" if right else "right", va="center", fontsize=8.5, color=INK, arrowprops=line if up else None,
        )  # fmt: skip


class Box(NamedTuple):
    """Where a name is, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "Box") -> bool:
        """Whether they share a place."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )


def _box(x: float, y: float, width: float, right: bool) -> Box:
    return Box(x + GAP, y - 5, x + GAP + width, y + 5) if right else Box(x - GAP - width, y - 5, x - GAP, y + 5)


def curves(found: Sequence[Curve], figure: str, over: str, colour: Mapping[str, str]) -> Drawn | None:
    """Loss or probe, over steps, time or FLOPs; None if no run has any. Changes of patch sizes are marked."""
    drawn = [curve for curve in found if curve.figure == figure and over in curve.x and len(curve.y)]
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        for curve in drawn:
            style = {"marker": "o", "ms": 3.5} if len(curve.y) < 12 else {}
            own = colour[curve.label]
            axes.plot(curve.x[over], curve.y, color=own, lw=1.3, alpha=0.85, **style)  # type: ignore[arg-type]
            for place, name in curve.changes:
                x = float(np.interp(place, curve.steps, curve.x[over]))
                y = float(np.interp(place, curve.steps, curve.y))
                axes.plot(x, y, "|", ms=11, mew=1.6, color=own)
                axes.annotate(name, (x, y), (0, 8), textcoords="offset points", ha="center", fontsize=7, color=own)
        axes.set_xlabel({"steps": "steps", "minutes": "minutes of training", "flops": "FLOPs (planned)"}[over])
        axes.set_ylabel({"loss": "loss", "probe": "probe mIoU"}[figure])
        if over == "minutes":
            longest = max(float(curve.x[over].max()) for curve in drawn)
            shortest = min(float(curve.x[over].max()) for curve in drawn)
            if longest > 8 * shortest:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        elif over == "flops":
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.flops(value).removesuffix("FLOP")))
            axes.xaxis.set_minor_formatter(NullFormatter())

    legend = {curve.label: colour[curve.label] for curve in drawn}
    words = {"steps": "steps", "minutes": "time", "flops": "FLOPs"}
    return Drawn(f"{figure}_over_{words[over].lower()}", f"{figure} over {words[over]}", draw, legend)


def rendered(drawn: Drawn, kind: str, legend: bool = True) -> bytes:
    """A figure as `svg` or `png`."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": drawn.name}):
        figure = Figure(figsize=SIZE, layout="constrained", dpi=100)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.12, lw=0.6)
        drawn.draw(axes)
        if legend and drawn.legend:
            lines = [Line2D([], [], color=one, label=shortened(name)) for name, one in drawn.legend.items()]
            figure.legend(handles=lines[:NAMED], loc="outside lower center", ncols=3, fontsize="small", frameon=False)
        buffer = io.BytesIO()
        if kind == "svg":
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        else:
            figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


def inline(drawn: Drawn) -> str:
    """A figure as a part of the page, in the page's own ink."""
    svg = rendered(drawn, "svg", legend=False).decode()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    return f'<svg {box[0]} role="img" class="figure" id="{drawn.name}">{body}'


def shortened(name: str) -> str:
    """A name that fits into a figure."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
