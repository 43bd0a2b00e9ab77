"""Step times of a benchmark in place of the trainings' own: measured in turns, they are worth more."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_patch.config.recipe import leaves
from hybrid_patch.report.comparability import COST
from hybrid_patch.report.grouping import Leaves, Member, is_swept
from hybrid_patch.report.statistics import Comparison, Estimate, verdict_of

NAME = "benchmark.json"
NO_COST = ("seed", "recipe_version", "optimizer", "trainer.steps", "trainer.max_bad_steps", "loss.target_seed", "data")
"""Of a recipe, what changes no step's time; of the data what `COST` names does."""


class Benchmark(NamedTuple):
    """A report of `hybrid_patch.benchmark`.

    Attributes:
        path: its file.
        rounds: in which each variant was timed.
        variants: by name, the seconds of a step.
        ratios: of two variants, `a/b`, paired within rounds.
        names: of the variants, by what a step's time depends on.
    """

    path: Path
    rounds: int
    variants: Mapping[str, Estimate]
    ratios: Mapping[str, Comparison]
    names: Mapping[str, str]


def read(folders: Sequence[Path]) -> Benchmark | None:
    """The benchmark of the first folder that has one which can be read."""
    for folder in folders:
        try:
            report = json.loads((folder / NAME).read_text())
            return _benchmark(folder / NAME, report)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def _benchmark(path: Path, report: Mapping[str, Any]) -> Benchmark:
    rounds = int(report["rounds"])

    def estimate(one: Mapping[str, float]) -> Estimate:
        return Estimate(one["median"], one["low"], one["high"], rounds, "rounds")

    able = {name: row for name, row in report["variants"].items() if "failed" not in row}
    ratios = {pair: estimate(one["step_seconds"]) for pair, one in report["ratios"].items()}
    return Benchmark(
        path,
        rounds,
        {name: estimate(row["step_seconds"]) for name, row in able.items()},
        {pair: Comparison(one, True, verdict_of(one, 1.0)) for pair, one in ratios.items()},
        {_key(dict(leaves(report["config"][name]))): name for name in able},
    )


def _key(leaves: Leaves) -> str:
    """Equal for recipes whose steps take as long."""
    kept = {key: x for key, x in leaves.items() if is_swept(key, COST) or not is_swept(key, NO_COST)}
    return json.dumps(kept, sort_keys=True)


def use(benchmark: Benchmark, summary: Mapping[str, Any], members: Sequence[Member]) -> str:
    """Put a benchmark's step times into a summary, if it has all members whose costs are compared.

    Returns what the page says of it.
    """
    names = {member.label: benchmark.names.get(_key(member.leaves)) for member in members}
    compared = [row for row in summary["members"] if "step_seconds" in row["measures"] and not row["apart"]["costs"]]
    lacking = [row["label"] for row in compared if names[row["label"]] is None]
    if lacking or not compared:
        without = f"{', '.join(lacking[:4])}{' and more' if len(lacking) > 4 else ''}"
        own = summary["time_note"]
        return f"{own} {benchmark.path.name} is not used: it has no variant with the recipe of {without or 'any'}."
    for row in compared:
        name = names[row["label"]]
        assert name is not None
        row["measures"]["step_seconds"] = benchmark.variants[name]._asdict()
        for against in row["against"].values():
            pair = benchmark.ratios.get(f"{name}/{names[against['label']]}")
            against.pop("step_seconds", None)
            if pair is not None:
                against["step_seconds"] = {**pair._asdict(), "estimate": pair.estimate._asdict()}
    return (
        f"the median of {benchmark.rounds} rounds in which the variants took turns, and ratios within rounds, as "
        f"{benchmark.path.name} has them (python -m hybrid_patch.benchmark); intervals are those of order statistics."
    )
