"""Step times of a benchmark in place of the trainings' own: its variants take turns, which makes them more reliable."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from typing_extensions import TypedDict

from hybrid_patch.config.recipe import leaves
from hybrid_patch.report.comparability import COST_KEYS
from hybrid_patch.report.formatting import listed
from hybrid_patch.report.grouping import Leaves, is_swept
from hybrid_patch.report.load_runs import LARGEST, SMALLEST, whole
from hybrid_patch.report.statistics import Comparison, Estimate, verdict_of
from hybrid_patch.report.summary import Summary, mark_front
from hybrid_patch.runs.records import Parser, parser, read_record

NAME = "benchmark.json"
IGNORED = ("seed", "recipe_version", "optimizer", "trainer.steps", "trainer.max_bad_steps", "target.seed", "data")
"""Parts of a recipe that do not change the time of a step, but for those of `COST_KEYS`."""


_Positive = Annotated[float, Field(gt=SMALLEST, lt=LARGEST)]


class Benchmark(NamedTuple):
    """A report of `hybrid-patch benchmark`: step times by variant, ratios by `a/b`, and variants by `_time_key`."""

    rounds: int
    step_seconds: Mapping[str, Estimate]
    ratios: Mapping[str, Comparison]
    variants: Mapping[str, str]


class _Interval(TypedDict):
    median: _Positive
    low: _Positive
    high: _Positive


class _Row(TypedDict, total=False):
    step_seconds: _Interval


@dataclass(frozen=True)
class _File:
    """What is read of `benchmark.json`; that of a sweep over a value has no variants."""

    rounds: int = 0
    config: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    variants: Mapping[str, _Row] = field(default_factory=dict)
    ratios: Mapping[str, _Row] = field(default_factory=dict)


_FILE_OF: Parser[_File] = parser(_File)


def read_benchmark(folders: Sequence[Path], damage: list[str]) -> Benchmark | None:
    """The benchmark of the first folder that has one with variants; what cannot be read adds a line of `damage`."""
    for path in (folder / NAME for folder in folders):
        file = whole(path, partial(read_record, path, _FILE_OF), damage, None)
        if file is not None and file.variants:
            return _benchmark(file)
    return None


def _benchmark(file: _File) -> Benchmark:
    def estimates(rows: Mapping[str, _Row]) -> dict[str, Estimate]:
        seconds = {name: row["step_seconds"] for name, row in rows.items() if "step_seconds" in row}
        return {name: Estimate(x["median"], x["low"], x["high"], file.rounds, "rounds") for name, x in seconds.items()}

    step_seconds, ratios = estimates(file.variants), estimates(file.ratios)
    comparisons = {pair: Comparison(ratio, True, verdict_of(ratio, 1.0)) for pair, ratio in ratios.items()}
    variants = {_time_key(dict(leaves(file.config.get(name, {})))): name for name in step_seconds}
    return Benchmark(file.rounds, step_seconds, comparisons, variants)


def _time_key(leaves: Leaves) -> str:
    """Equal for recipes whose steps take the same time."""
    relevant = {key: x for key, x in leaves.items() if is_swept(key, COST_KEYS) or not is_swept(key, IGNORED)}
    return json.dumps(relevant, sort_keys=True)


def use_benchmark(benchmark: Benchmark, summary: Summary) -> None:
    """Put a benchmark's step times into a summary, if it has all members whose costs are compared."""
    members = [each for each in summary.members if "step_seconds" in each.measures and not each.excluded["costs"]]
    variants = {member.label: benchmark.variants.get(_time_key(member.leaves), "") for member in members}
    lacking = [label for label, variant in variants.items() if not variant]
    if lacking or not members:
        summary.time_note += f" {NAME} is not used: it has no variant with the recipe of {listed(lacking, 4) or 'any'}."
        return
    for member in members:
        variant = variants[member.label]
        member.measures["step_seconds"] = benchmark.step_seconds[variant]
        for against in member.against.values():
            against.comparisons.pop("step_seconds", None)
            if ratio := benchmark.ratios.get(f"{variant}/{variants.get(against.label)}"):
                against.comparisons["step_seconds"] = ratio
    summary.time_note = (
        f"the median of {benchmark.rounds} rounds in which the variants took turns, and ratios within rounds, as "
        f"{NAME} has them (hybrid-patch benchmark); intervals are those of order statistics."
    )
    mark_front(summary.members)
