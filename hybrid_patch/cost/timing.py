"""How long things take on a machine that others use too: rounds, and intervals of their ratios."""

import math
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A median, and the order statistics around it that hold the true one with at least 95 %, if there are enough."""

    median: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """The interval of a sample: between its k-th smallest and k-th largest value, k as large as the confidence allows.

    The true median lies outside with probability `2 P(Binomial(n, 1/2) < k)`; with 7 values k = 1, minimum to maximum,
    98 %. Fewer than 6 values cannot reach 95 %: theirs is minimum to maximum too.
    """
    ordered, n = sorted(values), len(values)
    k = 1
    while 1 - 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n >= CONFIDENCE:
        k += 1
    return Interval(statistics.median(ordered), ordered[k - 1], ordered[n - k])


class Clock:
    """Seconds between laps, with the device's work done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.last = self._now()

    def lap(self) -> float:
        """Seconds since the last lap, or since this was made."""
        now = self._now()
        seconds, self.last = now - self.last, now
        return seconds

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
