"""All runs as a table, a row per run: as CSV or Parquet, and as a data frame of pandas."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_patch.config.recipe import leaves
from hybrid_patch.errors import require_extra
from hybrid_patch.report import formatting, metrics
from hybrid_patch.report.export import Row, as_csv
from hybrid_patch.report.grouping import Leaves, ReportMember, differing_keys, recipe_leaves
from hybrid_patch.report.load_runs import Run, find_runs, load_run
from hybrid_patch.runs.atomic_files import write_text, write_whole
from hybrid_patch.runs.sweep_manifest import RUNS

if TYPE_CHECKING:
    import pandas


def load_runs(*folders: str | Path) -> "pandas.DataFrame":
    """The runs in folders, at any depth, as a data frame with a row per run (default: those below `runs/`).

    Columns are as `run_values` names them: id, path and state, each value of the config by its dotted key, the metrics
    of the last step, `cost.<name>` and `score.<name>`. Files are only read, and a damaged one is named in `damage`.
    Raises InputError for a folder without a run, and where pandas is not installed (extra `report`).
    """
    require_extra("report", "pandas")
    import pandas

    runs = [load_run(path) for path in find_runs([Path(folder) for folder in folders or (RUNS,)])]
    return pandas.DataFrame(uniform([run_values(run, config_leaves(run)) for run in runs]))


def config_leaves(run: Run) -> Leaves:
    """The leaves of a run's config; of a damaged one those that the recipe tells."""
    return recipe_leaves(run) | dict(leaves(dict(run.config)) if run.config else {})


def run_values(run: Run, of_config: Leaves) -> Row:
    """What a run is (id, path, state, ...), values of its config, the metrics of its last step, and its costs and
    scores as `cost.<name>` and `score.<name>`."""
    scores = run.evaluation.get("scores")
    scores = {**(scores if isinstance(scores, Mapping) else {}), **metrics.scores(run)}
    row: Row = {"id": run.identity.get("run_id", run.path.name), "path": str(run.path)}
    row |= {"state": run.state, "reason": run.reason, "damage": "; ".join(run.damage) or None}
    row |= {"attempt": run.attempt, "commit": run.identity.get("commit")}
    row |= {key: json.loads(value) for key, value in of_config.items()}
    row |= {**run.last_metrics, **{f"cost.{name}": value for name, value in metrics.costs(run).items()}}
    return row | {f"score.{name}": value for name, value in scores.items()}


def run_rows(members: Sequence[ReportMember]) -> list[Row]:
    """A row per run of all members, with the recipe's values that differ."""
    runs = [(member.label, run, recipe_leaves(run)) for member in members for run in member.runs]
    differing = differing_keys([recipe for _, _, recipe in runs if recipe])
    rows: list[Row] = []
    for label, run, recipe in runs:
        values = run_values(run, {key: recipe.get(key, "null") for key in differing})
        rows.append({"id": None, "path": None, "member": label} | values)
    return uniform(rows)


def uniform(rows: Sequence[Row]) -> list[Row]:
    """The same columns in all rows, and one type in each: numbers, booleans or text."""
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    for key, values in columns.items():
        types = {type(value) for value in values if value is not None}
        if types == {int, float}:
            columns[key] = [None if value is None else float(value) for value in values]
        elif len(types) > 1 or types & {dict, list} or any(isinstance(x, int) and abs(x) >= 2**63 for x in values):
            columns[key] = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write a table as CSV or Parquet, by the name's ending."""
    if path.suffix == ".csv":
        write_text(path, as_csv(rows))
        return
    require_extra("report", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    plain = [{key: formatting.printable(x) if isinstance(x, str) else x for key, x in row.items()} for row in rows]
    table = pyarrow.Table.from_pylist(plain)
    write_whole(path, lambda file: parquet.write_table(table, file))
