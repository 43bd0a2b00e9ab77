"""Numbers as text: as many digits as are meaningful, and the number of seeds beside every mean."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hybrid_patch.errors import number_of
from hybrid_patch.report.statistics import Comparison, Estimate

Format = Callable[[float | int], str]
NOTHING = "–"


def score(value: float | int) -> str:
    """`.341`"""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def signed(value: float | int) -> str:
    """`+.081`, `−.012`"""
    return f"{'−' if value < 0 else '+'}{score(abs(value))}"


def times(value: float | int) -> str:
    """A ratio: `1.8×`, `0.025×`"""
    return f"{value:.3g}×"


def part_of(ratio: float) -> str:
    """A ratio in words: `1/15 of`, `62 % of`, `the same as`, `1.8 times`"""
    if ratio < 0.4:
        return f"1/{round(1 / ratio)} of"
    return (
        "the same as"
        if abs(ratio - 1) < 0.02
        else f"{ratio:.0%} of".replace("%", " %")
        if ratio < 1
        else f"{ratio:.2g} times"
    )


def _in_units(value: float | int, units: Mapping[str, float | int]) -> str:
    """Three digits or more, in the first unit that is not too large, else in the last."""
    unit, size = next(((unit, size) for unit, size in units.items() if value >= 0.9995 * size), [*units.items()][-1])
    return f"{value / size:{'.0f' if value >= 99.95 * size else '.3g'}} {unit}"


seconds = partial(_in_units, units={"s": 1, "ms": 1e-3})  # 52.4 ms, 1.96 s
memory = partial(_in_units, units={"GiB": 2**30, "MiB": 2**20})  # 77 MiB, 1.25 GiB
hours = partial(_in_units, units={"h": 1, "min": 1 / 60, "s": 1 / 3600, "ms": 1e-3 / 3600})  # 8.89 s, 2.1 min, 3.44 h
flops = partial(_in_units, units={"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6})


def printable(text: str) -> str:
    """With escapes for names of files that are in no encoding."""
    return text.encode(errors="backslashreplace").decode()


def listed(names: Sequence[str], limit: int, last: str = ", ") -> str:
    """`a, b and 3 more`; `last` joins the last two where all are named."""
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return last.join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def sample_size(estimate: Estimate) -> str:
    """`1 seed`, `3 seeds`, and of a benchmark `7 rounds`"""
    return number_of(estimate.n, "round" if estimate.how == "rounds" else "seed")


def interval(estimate: Estimate, number: Format) -> str:
    """`.27 to .30`, `26 to 84 ms`; empty for one seed, `by FLOPs` of what was planned."""
    if estimate.low is None or estimate.high is None:
        return {"flops": "by FLOPs", "wide": "not measured well"}.get(estimate.how, "")
    low, high = number(estimate.low), number(estimate.high)
    unit = high.partition(" ")[2]
    return f"{low.removesuffix(f' {unit}') if unit else low} to {high}"


def with_seeds(estimate: Estimate | None, number: Format) -> str:
    """`.341 (.320 to .362, 3 seeds)`"""
    if estimate is None:
        return NOTHING
    return f"{number(estimate.mean)} ({', '.join(filter(None, (interval(estimate, number), sample_size(estimate))))})"


def comparison_seeds(comparison: Comparison) -> str:
    """`3 seeds, paired`; `1 seed: no verdict`; of many steps within runs, and of planned numbers, seeds alone"""
    estimate = comparison.estimate
    pairing = ", paired" if comparison.paired else ", not paired" if estimate.how in ("t", "bootstrap") else ""
    return sample_size(estimate) + (": no verdict" if comparison.verdict == "too few seeds" else pairing)


def verdict(comparison: Comparison | None, number: Format) -> str:
    """A comparison in words: its number only where the interval does not contain "no difference"."""
    if comparison is None:
        return NOTHING
    if comparison.verdict == "not measured well here":
        return comparison.verdict
    shown = comparison.verdict if comparison.verdict == "no difference shown" else number(comparison.estimate.mean)
    return f"{shown} ({', '.join(filter(None, (interval(comparison.estimate, number), comparison_seeds(comparison))))})"
