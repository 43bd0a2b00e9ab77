"""Intervals over few seeds: how often they are wrong, and that wide ones give no verdict."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_patch.report.statistics import Estimate, difference, geometric, over_seeds, ratio, ratio_over_steps

VALUES = st.floats(-10, 10)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 8, 12])
def test_equal_members_differ_one_time_in_twenty_at_most(n: int) -> None:
    rng = np.random.default_rng(n)
    wrong, trials = 0, 1000 if n < 6 else 300
    for _ in range(trials):
        a, b = rng.normal(size=(2, n))
        wrong += difference(dict(enumerate(a)), dict(enumerate(b))).verdict != "no difference shown"
    # 95 %, and three standard errors of that number of trials (the bootstrap of six is still a little too narrow).
    allowed = 0.05 if n < 6 else 0.075
    assert wrong / trials < allowed + 3 * math.sqrt(allowed * (1 - allowed) / trials)


def test_pairing_reveals_what_the_noise_of_seeds_hides() -> None:
    seeds = {0: 0.1, 1: 0.5, 2: 0.9}
    better = {seed: value + 0.05 + 0.001 * seed for seed, value in seeds.items()}
    paired = difference(better, seeds)
    assert (paired.verdict, paired.paired, paired.estimate.n) == ("more", True, 3)
    unpaired = difference({seed + 10: value for seed, value in better.items()}, seeds)
    assert (unpaired.verdict, unpaired.paired) == ("no difference shown", False)


def test_one_seed_has_no_interval_and_gives_no_verdict() -> None:
    assert over_seeds([0.3]) == Estimate(0.3, None, None, 1, "")
    for a, b in (({0: 1.0}, {0: 2.0}), ({0: 1.0}, {1: 2.0}), ({0: 1.0}, {0: 2.0, 1: 3.0})):
        comparison = difference(a, b)
        assert comparison.verdict == "too few seeds"
        assert comparison.estimate.low is None
    assert difference({0: 1.0}, {0: 2.0, 1: 9.0}).estimate.mean == -1  # within the seed that both have


@given(st.lists(VALUES, min_size=2, max_size=9))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    estimate = over_seeds(values)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= estimate.mean + 1e-9
    assert estimate.mean <= estimate.high + 1e-9
    assert estimate.how == ("t" if len(values) < 6 else "bootstrap")


@given(st.dictionaries(st.integers(0, 5), VALUES, min_size=1), st.dictionaries(st.integers(0, 5), VALUES, min_size=1))
def test_a_reversed_comparison_has_the_opposite_verdict(a: dict[int, float], b: dict[int, float]) -> None:
    forward, backward = difference(a, b), difference(b, a)
    assert forward.estimate.mean == pytest.approx(-backward.estimate.mean)
    assert forward.estimate.n == backward.estimate.n
    if forward.estimate.how != "bootstrap":
        opposite = {"more": "less", "less": "more"}
        assert backward.verdict == opposite.get(forward.verdict, forward.verdict)


@given(st.dictionaries(st.integers(0, 3), st.floats(0.01, 100), min_size=1), st.floats(0.1, 10))
def test_ratios_are_of_geometric_means(values: dict[int, float], factor: float) -> None:
    comparison = ratio({seed: factor * value for seed, value in values.items()}, values)
    assert comparison.estimate.mean == pytest.approx(factor)
    mean = geometric(list(values.values()))
    assert mean.mean == pytest.approx(math.exp(np.mean(np.log(list(values.values())))))
    assert mean.low is None or mean.low > 0


def test_differences_that_are_all_the_same_are_differences() -> None:
    assert difference({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}).verdict == "more"
    assert difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).verdict == "no difference shown"
    assert difference({0: 1.0, 1: 1.0}, {5: 1.0, 6: 1.0}).verdict == "no difference shown"


def test_a_wide_ratio_of_costs_is_no_number() -> None:
    wide = ratio({0: 1.0, 1: 9.0, 2: 2.0}, {0: 2.0, 1: 1.0, 2: 7.0})
    assert (wide.verdict, wide.estimate.low, wide.estimate.how) == ("not measured well here", None, "wide")


def test_many_steps_within_one_run_tell_a_ratio() -> None:
    rng = np.random.default_rng(0)
    slow, quick = (list(scale * rng.lognormal(0, 0.1, 8)) for scale in (3.0, 1.0))
    comparison = ratio_over_steps([slow], [quick])
    assert comparison.verdict == "more"
    assert comparison.estimate.n == 1
    assert comparison.estimate.mean == pytest.approx(3, rel=0.2)
    assert ratio_over_steps([slow[:4]], [slow[4:]]).verdict == "no difference shown"
