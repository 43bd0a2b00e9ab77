"""What differs between two runs: values of their configs, and their scores and costs side by side."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.table import Table

from hybrid_patch.config.options import Positional
from hybrid_patch.errors import DONE, InputError
from hybrid_patch.report import metrics
from hybrid_patch.report.grouping import NONE, differing_keys
from hybrid_patch.report.load_runs import RUN_FILES, Run, find_runs, is_run, load_run, nested
from hybrid_patch.report.query import print_tables
from hybrid_patch.report.run_table import config_leaves
from hybrid_patch.runs.sweep_manifest import RUNS, path_by_id, planned_runs


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """The two runs."""

    first: Annotated[str, Positional("A", "a run's folder, or the beginning or end of its id, or sweep/id")]
    second: Annotated[str, Positional("B", "another")]


def diff_command(options: DiffOptions) -> int:
    """Show in what two runs differ: values of their configs, and scores and costs side by side."""
    a, b = (load_run(find_run(name)) for name in (options.first, options.second))
    values = {run.path: _facts(run) | config_leaves(run) for run in (a, b)}
    different = Table("value", str(a.path), str(b.path))
    for key in differing_keys(list(values.values())):
        different.add_row(key, *(values[run.path].get(key, NONE) for run in (a, b)))
    tables = [different] if different.row_count else []
    for title, how, of_a, of_b in (
        ("score", "B − A", scores_of(a), scores_of(b)),
        ("cost", "B / A", metrics.costs(a), metrics.costs(b)),
    ):
        table = Table(title, "A", "B", how)
        for name in {**of_a, **of_b}:
            table.add_row(name, _number(of_a.get(name)), _number(of_b.get(name)), _compared(name, how, of_a, of_b))
        tables += [table] if table.row_count else []
    print_tables(*tables)
    if not different.row_count:
        print("no value differs")
    return DONE


def find_run(name: str) -> Path:
    """The run in a folder, or the one below `runs/` by its id, as `path_by_id`. Raises InputError."""
    path = Path(name)
    if not path.is_dir():
        return path_by_id(name, find_runs([RUNS]), "no run below runs/ has such an id")
    if not is_run(path) and path not in (run.path for run in planned_runs(path.parent)):
        raise InputError(f"{name}: is no run: it has no {', '.join(RUN_FILES[:-1])} or {RUN_FILES[-1]}; name a run")
    return path


def scores_of(run: Run) -> dict[str, float]:
    """All scores of a run's evaluation by name, those of the report first."""
    scores = nested(run.evaluation, "scores")
    of_evaluation = scores if isinstance(scores, Mapping) else {}
    return metrics.scores(run) | {
        name: float(value) for name, value in of_evaluation.items() if isinstance(value, int | float)
    }


def _facts(run: Run) -> dict[str, str]:
    facts = {
        "commit": run.identity.get("commit"),
        "python": run.identity.get("python"),
        "host": nested(run.identity, "machine", "host"),
        "state": run.state,
        "step": run.steps_done,
    }
    return {name: str(fact) for name, fact in facts.items()}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _compared(name: str, how: str, a: Mapping[str, float], b: Mapping[str, float]) -> str:
    if name not in a or name not in b:
        return ""
    if how == "B − A":
        return f"{b[name] - a[name]:+.3f}"
    return f"{b[name] / a[name]:.3g}×" if a[name] and math.isfinite(a[name]) else ""
