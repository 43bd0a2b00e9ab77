"""How a cost grows: the exponent of a power law through several measurements."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def exponents(values: Sequence[str], points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For every variant the slopes of step time and memory against the swept values, in logarithms.

    Only values above 0 that a variant could be run at count; a variant with fewer than two of them has no row.
    """
    found: dict[str, dict[str, float]] = {}
    for name in points[0]["variants"]:
        places = [
            (float(value), point["variants"][name])
            for value, point in zip(values, points, strict=True)
            if _above_zero(value) and "failed" not in point["variants"][name]
        ]
        if len(places) >= 2:
            sizes = [size for size, _ in places]
            found[name] = {
                "step_seconds": slope(sizes, [row["step_seconds"]["median"] for _, row in places]),
                "peak_memory_bytes": slope(sizes, [row["peak_memory_bytes"] for _, row in places]),
            }
    return found


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The least-squares slope of log cost against log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def _above_zero(value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    return number > 0 and math.isfinite(number)
