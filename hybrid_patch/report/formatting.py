"""Numbers as people read them: as many digits as they are worth, and the number of seeds beside every mean."""

from collections.abc import Callable, Mapping
from typing import Any

Estimated = Mapping[str, Any]
"""An `Estimate` as plain values."""

Shown = Callable[[float | int], str]
"""How a number is written."""

NOTHING = "–"


def score(value: float | int) -> str:
    """`.341`"""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def signed(value: float | int) -> str:
    """`+.081`, `−.012`"""
    return f"{'−' if value < 0 else '+'}{score(abs(value))}"


def times(value: float | int) -> str:
    """A ratio: `1.8×`, `.025×`"""
    return f"{value:.3g}×"


def seconds(value: float | int) -> str:
    """`52 ms`, `1.96 s`"""
    return f"{1000 * value:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def mebibytes(value: float | int) -> str:
    """`77 MiB`, `1.25 GiB`"""
    return f"{value / 2**20:.0f} MiB" if value < 0.9995 * 2**30 else f"{value / 2**30:.3g} GiB"


def hours(value: float | int) -> str:
    """`2.1 min`, `3.4 h`"""
    return f"{60 * value:.3g} min" if value < 0.9995 else f"{value:.3g} h"


def flops(value: float | int) -> str:
    """`1.2 GFLOP`"""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= size:
            return f"{value / size:.3g} {unit}FLOP"
    return f"{value / 1e6:.3g} MFLOP"


def counted(estimate: Estimated) -> str:
    """`1 seed`, `3 seeds`, and of a benchmark `7 rounds`"""
    word = "round" if estimate["how"] == "rounds" else "seed"
    return f"{estimate['n']} {word}{'' if estimate['n'] == 1 else 's'}"


SHOWN: dict[str, Shown] = {
    "miou": score,
    "mixed_miou": score,
    "boundary_miou": score,
    "knn_miou": score,
    "step_seconds": seconds,
    "peak_memory_bytes": mebibytes,
    "hours": hours,
}
"""How each measure is written."""


def between(estimate: Estimated, shown: Shown) -> str:
    """`.27 to .30`, `26 to 84 ms`; nothing for one seed."""
    if estimate["low"] is None:
        return ""
    low, high = shown(estimate["low"]), shown(estimate["high"])
    unit = high.partition(" ")[2]
    return f"{low.removesuffix(f' {unit}') if unit else low} to {high}"


def with_seeds(estimate: Estimated, shown: Shown) -> str:
    """`.341 (.320 to .362, 3 seeds)`"""
    words = [word for word in (between(estimate, shown), counted(estimate)) if word]
    return f"{shown(estimate['mean'])} ({', '.join(words)})"


def verdict(comparison: Mapping[str, Any], shown: Shown) -> str:
    """A comparison in words: its number only where the interval spans no difference."""
    found, estimate = comparison["verdict"], comparison["estimate"]
    if found == "too few seeds":
        return f"{shown(estimate['mean'])} ({counted(estimate)}: no verdict)"
    pairing = counted(estimate) + (", paired" if comparison["paired"] else ", not paired")
    if found == "no difference shown":
        return f"no difference shown ({between(estimate, shown)}, {pairing})"
    return f"{shown(estimate['mean'])} ({between(estimate, shown)}, {pairing})"
