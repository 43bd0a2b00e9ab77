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
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hybrid_patch.page import text
from hybrid_patch.page.curves import Curve

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
LEAST, ABOVE = 12.0, 6.0
"""Points (1/72 inch) that names are apart from one another, and above their points, where intervals cross them."""


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
    raw = summary["baselines"].get("raw bands")

    def draw(axes: Axes) -> None:
        named = []
        for number, row in rows:
            x, y = row["measures"][cost], row["measures"]["miou"]
            own, marker = colour[row["label"]], MARKERS.get(row["kind"], "o")
            if y["low"] is not None:
                axes.plot([x["mean"]] * 2, [y["low"], y["high"]], color=own, lw=1.4, alpha=0.7)
            if x["low"] is not None:
                axes.plot([max(x["low"], x["mean"] / 4), x["high"]], [y["mean"]] * 2, color=own, lw=1.4, alpha=0.7)
            face = own if y["n"] > 1 else "none"
            axes.plot(x["mean"], y["mean"], marker, ms=8, color=own, mfc=face, mew=1.8)
            if row["front"]:
                axes.plot(x["mean"], y["mean"], "o", ms=15, mfc="none", mec=INK, mew=0.7, alpha=0.6)
            hit = axes.plot(x["mean"], y["mean"], "o", ms=18, color=own, alpha=0.004)[0]
            hit.set_gid(f"point-{cost}-{number}")
            if len(rows) <= NAMED or row["front"] or row["kind"] in MARKERS:
                named.append((x["mean"], y["mean"], row["label"], own))
        axes.set_xscale("log")
        axes.set_xlabel({"step_seconds": "step time", "peak_memory_bytes": "peak memory", "hours": "hours"}[cost])
        axes.set_ylabel("mIoU")
        _cost_axis(axes, text.SHOWN[cost])
        if raw is not None:
            axes.axhline(raw, color=INK, lw=0.8, ls=(0, (2, 3)), alpha=0.6)
            axes.annotate("raw bands", (1, raw), (-3, 3), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", fontsize=8, alpha=0.7)  # fmt: skip
        axes.margins(x=0.3, y=0.12)
        _name(axes, named[:NAMED])

    names = {
        "step_seconds": "worth_against_time",
        "peak_memory_bytes": "worth_against_memory",
        "hours": "worth_against_hours",
    }
    titles = {"step_seconds": "step time", "peak_memory_bytes": "peak memory", "hours": "hours of training"}
    return Drawn(names[cost], f"mIoU against {titles[cost]}", draw, {})


def _cost_axis(axes: Axes, shown: Callable[[float], str]) -> None:
    low, high = axes.get_xlim()
    few = high / low < 12
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if few and high / low < 5 else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name(axes: Axes, named: Sequence[tuple[float, float, str, str]]) -> None:
    """Names to the right of points (to the left in the right third), moved up and down until none lies on another."""
    axes.figure.canvas.draw()  # places are known after that
    bounds = axes.get_window_extent()
    scale = axes.figure.dpi / 72
    for right in (False, True):
        side = []
        for x, y, label, colour in named:
            px, py = axes.transData.transform((x, y))
            if ((px - bounds.x0) / bounds.width > 0.62) == right:
                side.append((py / scale, px / scale, x, y, label, colour))
        side.sort()
        places = spread([one[0] + ABOVE for one in side], LEAST, bounds.y0 / scale + 6, bounds.y1 / scale - 6)
        for (py, _, x, y, label, colour), place in zip(side, places, strict=True):
            offset = (-11 if right else 11, place - py)
            line = {"arrowstyle": "-", "lw": 0.6, "color": colour, "shrinkA": 0, "shrinkB": 5}
            axes.annotate(
                shortened(label), (x, y), offset, textcoords="offset points", ha="right" if right else "left",
                va="center", fontsize=8.5, color=INK, arrowprops=line if abs(place - py - ABOVE) > 4 else None,
            )  # fmt: skip


def spread(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Ascending places moved as little as needed to be `least` apart and between `low` and `high`, if they fit."""
    x = np.asarray(places, float)
    if not len(x):
        return []
    steps = np.arange(len(x)) * least
    # Least squares under an order is the isotonic regression: pool neighbours that overlap.
    blocks: list[list[float]] = []
    for value in x - steps:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            last, before = blocks.pop(), blocks.pop()
            weight = last[1] + before[1]
            blocks.append([(last[0] * last[1] + before[0] * before[1]) / weight, weight])
    flat = np.concatenate([np.full(int(weight), value) for value, weight in blocks])
    top = max(high - steps[-1], low)
    return [float(place) for place in np.clip(flat, low, top) + steps]


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
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.flops(value).removesuffix("FLOP")))
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
