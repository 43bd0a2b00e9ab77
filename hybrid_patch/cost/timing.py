"""Timing on a machine that others use too: interleaved rounds, and intervals of paired ratios."""

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

CONFIDENCE = 0.95
Parts = dict[str, float]
"""Seconds of the parts of one run, by name."""
Log = Callable[[str], None]
"""Takes lines of progress."""


class Interval(NamedTuple):
    """A median, and the order statistics that enclose the true one with at least 95 %, if there are enough values."""

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


def interleave(runs: Mapping[str, Callable[[], Parts]], rounds: int, warmup: int, log: Log) -> dict[str, list[Parts]]:
    """Time several things in turns, in random order within each round, so that a drift of the machine hits all alike.

    Each is run `warmup` times before, and timed `rounds` times; it returns its own seconds.
    """
    for name, run in runs.items():
        log(f"warm-up: {name}")
        for _ in range(warmup):
            run()
    seconds: dict[str, list[Parts]] = {name: [] for name in runs}
    order = random.Random(0)
    for number in range(rounds):
        log(f"round {number + 1}/{rounds}")
        for name in order.sample(list(runs), len(runs)):
            seconds[name].append(runs[name]())
    return seconds


def in_turns(runs: Sequence[Callable[[], Parts]]) -> Callable[[], Parts]:
    """One run out of several equivalent ones: each comes once, in random order, before any comes again."""
    order = random.Random(0)
    turns = (run for _ in itertools.count() for run in order.sample(runs, len(runs)))
    return lambda: next(turns)()


def totals_of(seconds: Mapping[str, Sequence[Parts]]) -> dict[str, list[float]]:
    """The result of `interleave` with the parts of each run summed."""
    return {name: [sum(parts.values()) for parts in rounds] for name, rounds in seconds.items()}


def intervals(rounds: Sequence[Parts], whole: str) -> dict[str, dict[str, float]]:
    """The intervals of all parts together, as `<whole>_seconds`, and of each, as `<part>_seconds`; plain values."""
    values = {whole: [sum(parts.values()) for parts in rounds]}
    values |= {name: [parts[name] for parts in rounds] for name in rounds[0]}
    return {f"{name}_seconds": interval(seconds)._asdict() for name, seconds in values.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """The ratio of two things' seconds, paired within rounds."""
    return interval([x / y for x, y in zip(above, below, strict=True)])


def ratios(seconds: Mapping[str, Sequence[Parts]]) -> dict[str, dict[str, float]]:
    """The ratio of each pair's whole seconds, as `a/b`; plain values."""
    totals = totals_of(seconds)
    return {f"{a}/{b}": ratio(totals[a], totals[b])._asdict() for a, b in itertools.permutations(totals, 2)}


class Clock:
    """Seconds between laps; waits for the device's work."""

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
