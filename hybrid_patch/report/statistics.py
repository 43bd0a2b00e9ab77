"""Statistics over few seeds: means with intervals, and comparisons that give no verdict where the interval is wide.

Of costs, an interval whose ends are further apart than `MAX_SPAN` times is no measurement, and stays unsaid.

A bootstrap over n seeds never leaves the range of their values: over three pairs of equal members it would report a
difference one time in four. It is used from six seeds on, with widened tails; fewer get Student's interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

COVERAGE = 0.95
TAIL = (1 - COVERAGE) / 2
MIN_BOOTSTRAP = 6
"""Seeds from which on a bootstrap can reach 95 %: n values lie on one side of the truth with probability 2^(1-n)."""
DRAWS = 10_000
MAX_SPAN = 4
"""Times by which the ends of a cost's interval may differ."""

Seed = int
Verdict = Literal["more", "less", "no difference shown", "too few seeds", "not measured well here"]


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds (of two unpaired samples: the smaller), and its interval, which a single seed does not have.
    `how` is the interval's method; `rounds`: of a benchmark, whose rounds n counts; `steps`: of many steps within the n
    runs; `flops`: planned; `wide`: a cost's, too wide to say."""

    mean: float
    low: float | None
    high: float | None
    n: int
    how: Literal["t", "bootstrap", "rounds", "steps", "flops", "wide", ""]


@dataclass(frozen=True)
class Comparison:
    """The difference `a - b`, or the ratio `a / b`, of two members: whether `a` is more, and whether paired by seed."""

    estimate: Estimate
    paired: bool
    verdict: Verdict


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value per seed."""
    return _estimate(np.asarray(values, float))


def above(lowest: float, estimate: Estimate) -> Estimate:
    """An estimate of values that are never below `lowest`: nor is its interval."""
    return estimate if estimate.low is None else replace(estimate, low=max(estimate.low, lowest))


def geometric(values: Sequence[float]) -> Estimate:
    """The geometric mean of one positive value per seed; its interval is positive too."""
    return _exponential(_estimate(np.log(values)))


def difference(a: Mapping[Seed, float], b: Mapping[Seed, float]) -> Comparison:
    """`a - b`; paired where the two share at least two seeds, or all seeds that one of them has."""
    common = sorted(a.keys() & b.keys())
    paired = len(common) >= min(len(a), len(b), 2)
    if paired:
        estimate = over_seeds([a[seed] - b[seed] for seed in common])
    else:
        estimate = _estimate(np.array([*a.values()], float), np.array([*b.values()], float))
    return Comparison(estimate, paired, verdict_of(estimate, 0.0))


def ratio(a: Mapping[Seed, float], b: Mapping[Seed, float]) -> Comparison:
    """`a / b` of positive values, by geometric means; paired as differences are."""
    logs = difference(*({seed: math.log(value) for seed, value in x.items()} for x in (a, b)))
    estimate = _exponential(logs.estimate)
    return replace(logs, estimate=estimate, verdict=verdict_of(estimate, 1.0))


def over_steps(runs: Sequence[Sequence[float]]) -> Estimate:
    """The geometric mean of positive values of each run, several within it."""
    return _of_steps(_estimate(_logs(runs)), len(runs))


def ratio_over_steps(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Comparison:
    """`a / b` of positive values of two members' runs, several within each run."""
    estimate = _of_steps(_estimate(_logs(a), _logs(b)), min(len(a), len(b)))
    return Comparison(estimate, False, verdict_of(estimate, 1.0))


def planned_ratio(a: float | None, b: float | None, n: int) -> Comparison:
    """`a / b` of planned numbers, in place of a measured ratio of n runs; None: there is no plan."""
    if not a or not b:
        return Comparison(Estimate(1.0, None, None, n, "wide"), False, "not measured well here")
    verdict: Verdict = "no difference shown" if a == b else "more" if a > b else "less"
    return Comparison(Estimate(a / b, None, None, n, "flops"), False, verdict)


def verdict_of(estimate: Estimate, null: float) -> Verdict:
    if estimate.how == "wide":
        return "not measured well here"
    if estimate.low is None or estimate.high is None:
        return "too few seeds"
    if estimate.low <= null <= estimate.high:
        return "no difference shown"
    return "more" if estimate.mean > null else "less"


def _estimate(*samples: np.ndarray) -> Estimate:
    """The mean of a sample, or the difference of the means of two independent ones."""
    from scipy import stats  # here: tables of runs need no scipy

    n = min(map(len, samples))
    signs = (1, -1)[: len(samples)]
    mean = float(sum(sign * x.mean() for sign, x in zip(signs, samples, strict=True)))
    if n < 2:
        return Estimate(mean, None, None, n, "")
    if n < MIN_BOOTSTRAP:
        variances = [x.var(ddof=1) / len(x) for x in samples]
        total = sum(variances)
        # Welch's degrees of freedom, of one sample n - 1; without any spread they do not matter.
        terms = ((variance / total) ** 2 / (len(x) - 1) for variance, x in zip(variances, samples, strict=True))
        freedom = 1 / sum(terms) if total else 1
        half = float(stats.t.ppf(1 - TAIL, freedom) * math.sqrt(total))
        return Estimate(mean, mean - half, mean + half, n, "t")
    draws = np.zeros(DRAWS)
    for number, (sign, x) in enumerate(zip(signs, samples, strict=True)):
        draws += sign * x[np.random.default_rng(number).integers(len(x), size=(DRAWS, len(x)))].mean(1)
    # The tails of a bootstrap, corrected for its narrowness in small samples (Hesterberg 2015).
    tail = float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(1 - TAIL, n - 1)))
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Estimate(mean, float(low), float(high), n, "bootstrap")


def _exponential(logs: Estimate) -> Estimate:
    mean = math.exp(logs.mean)
    if logs.low is None or logs.high is None:
        return replace(logs, mean=mean)
    if logs.high - logs.low > math.log(MAX_SPAN):
        return Estimate(mean, None, None, logs.n, "wide")
    return replace(logs, mean=mean, low=math.exp(logs.low), high=math.exp(logs.high))


def _of_steps(logs: Estimate, runs: int) -> Estimate:
    estimate = replace(_exponential(logs), n=runs)
    return estimate if estimate.low is None else replace(estimate, how="steps")


def _logs(runs: Sequence[Sequence[float]]) -> np.ndarray:
    return np.log(np.concatenate([np.asarray(run, float) for run in runs]))
