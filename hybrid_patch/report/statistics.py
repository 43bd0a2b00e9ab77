"""What a few seeds say: means with intervals, and comparisons that give no verdict where the interval spans none.

A bootstrap over n seeds never leaves the range of their values, so that with three paired seeds that differ by nothing
but noise it would see a difference one time in four. It is used from six seeds on, with its tails widened for small
samples; fewer have Student's interval, which is as wide as it takes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

COVERAGE = 0.95
TAIL = (1 - COVERAGE) / 2
FEWEST = 6
"""Seeds from which on a bootstrap can hold 95 %: the chance that n values lie on one side of the truth is 2^(1-n)."""
DRAWS = 10_000

Seed = int
Verdict = Literal["more", "less", "no difference shown", "too few seeds"]


class Estimate(NamedTuple):
    """A mean over seeds and its interval, which one seed does not have.

    Attributes:
        n: seeds; of two samples that do not pair, those of the smaller.
        how: the interval was made: `t`, `bootstrap`, or not at all; `rounds`: of a benchmark, where n are its rounds.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    how: Literal["t", "bootstrap", "rounds", ""]


class Comparison(NamedTuple):
    """How much more one thing is than another: `a - b`, or the ratio `a / b`.

    Attributes:
        estimate: of the difference or the ratio.
        paired: within seeds.
        verdict: of the first against the second.
    """

    estimate: Estimate
    paired: bool
    verdict: Verdict


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value per seed."""
    x = np.asarray(values, float)
    n, mean = len(x), float(np.mean(values))
    if n < 2:
        return Estimate(mean, None, None, n, "")
    if n < FEWEST:
        half = float(stats.t.ppf(1 - TAIL, n - 1) * x.std(ddof=1) / math.sqrt(n))
        return Estimate(mean, mean - half, mean + half, n, "t")
    low, high = np.quantile(_means(x, 0), _tails(n))
    return Estimate(mean, float(low), float(high), n, "bootstrap")


def geometric(values: Sequence[float]) -> Estimate:
    """The geometric mean of one value per seed, of things above 0 such as times: its interval is above 0 too."""
    return _exponential(over_seeds(np.log(values).tolist()))


def difference(a: Mapping[Seed, float], b: Mapping[Seed, float]) -> Comparison:
    """`a - b`, within seeds where two seeds have both, or one if there is no more than one."""
    common = sorted(a.keys() & b.keys())
    if len(common) >= min(len(a), len(b), 2):
        estimate = over_seeds([a[seed] - b[seed] for seed in common])
        return Comparison(estimate, True, verdict_of(estimate, 0.0))
    estimate = _unpaired(list(a.values()), list(b.values()))
    return Comparison(estimate, False, verdict_of(estimate, 0.0))


def ratio(a: Mapping[Seed, float], b: Mapping[Seed, float]) -> Comparison:
    """`a / b` of things above 0: geometric means, within seeds where at least two seeds have both."""
    logs = difference(*({seed: math.log(value) for seed, value in x.items()} for x in (a, b)))
    return Comparison(_exponential(logs.estimate), logs.paired, logs.verdict)


def _exponential(logs: Estimate) -> Estimate:
    low, high = (None if x is None else math.exp(min(x, 700.0)) for x in (logs.low, logs.high))
    return logs._replace(mean=math.exp(logs.mean), low=low, high=high)


def _unpaired(a: Sequence[float], b: Sequence[float]) -> Estimate:
    x, y = np.asarray(a, float), np.asarray(b, float)
    n, mean = min(len(x), len(y)), float(x.mean() - y.mean())
    if n < 2:
        return Estimate(mean, None, None, n, "")
    if n < FEWEST:
        parts = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
        total = sum(parts)
        # Welch: degrees of freedom of a sum of two variances; no spread at all has no need of them.
        freedom = total**2 / sum(part**2 / (len(z) - 1) for part, z in zip(parts, (x, y), strict=True)) if total else 1
        half = float(stats.t.ppf(1 - TAIL, freedom) * math.sqrt(total))
        return Estimate(mean, mean - half, mean + half, n, "t")
    low, high = np.quantile(_means(x, 0) - _means(y, 1), _tails(n))
    return Estimate(mean, float(low), float(high), n, "bootstrap")


def _means(x: np.ndarray, seed: int) -> np.ndarray:
    """Of the draws of a bootstrap."""
    return x[np.random.default_rng(seed).integers(len(x), size=(DRAWS, len(x)))].mean(1)


def _tails(n: int) -> tuple[float, float]:
    """The quantiles of a bootstrap that make up for its narrowness in small samples (Hesterberg 2015)."""
    tail = float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(1 - TAIL, n - 1)))
    return tail, 1 - tail


def verdict_of(estimate: Estimate, none: float) -> Verdict:
    """What an interval says: nothing where it spans `none`."""
    if estimate.low is None or estimate.high is None:
        return "too few seeds"
    if estimate.low <= none <= estimate.high:
        return "no difference shown"
    return "more" if estimate.mean > none else "less"
