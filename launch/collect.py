"""The members of a sweep as one table: what sets them apart, how they ended, and what they are worth."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from hybrid_patch.config.recipe import leaves
from hybrid_patch.runs.atomic_files import write_text, write_whole
from hybrid_patch.runs.directory import METRICS, RunDirectory
from launch.status import last_metrics
from launch.sweep import Member, Sweep

Row = dict[str, Any]


def collect(sweep: Sweep) -> tuple[int, list[Path]]:
    """Write `collected.csv` and `collected.parquet` into the sweep's folder. Returns the rows, and the files.

    A row for each member, finished or not: id, state, commit; the recipe's values that are not the same in all; the
    metrics of the last step; and the scores of its evaluation, as `score.<name>`.
    """
    import pyarrow
    from pyarrow import parquet

    members = list(sweep.members().values())
    apart = _apart(sweep, members)
    rows = _filled([_row(RunDirectory(sweep.run(member.id)), member, apart[member.id]) for member in members])
    csv_path, parquet_path = sweep.folder / "collected.csv", sweep.folder / "collected.parquet"
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(csv_path, text.getvalue())
    table = pyarrow.Table.from_pylist(rows)
    write_whole(parquet_path, lambda file: parquet.write_table(table, file))
    return len(rows), [csv_path, parquet_path]


def _row(run: RunDirectory, member: Member, apart: Row) -> Row:
    status = run.status()
    row = {
        "id": member.id,
        "state": status.get("state", "missing"),
        "attempt": status.get("attempt"),
        "commit": run.identity().get("commit") if run.exists() else None,
        **apart,
        **last_metrics(run.path / METRICS),
    }
    if run.evaluation.exists():
        scores = json.loads(run.evaluation.read_text())["scores"]
        row |= {f"score.{name}": value for name, value in scores.items()}
    return row


def _apart(sweep: Sweep, members: list[Member]) -> dict[str, Row]:
    """Of each member the recipe's values that differ between them, by dotted key."""
    recipes = {
        member.id: dict(leaves(run.recipe())) if (run := RunDirectory(sweep.run(member.id))).exists() else {}
        for member in members
    }
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
    different = [key for key in keys if len({recipe.get(key) for recipe in recipes.values()}) > 1]
    return {
        name: {key: json.loads(recipe[key]) if key in recipe else None for key in different}
        for name, recipe in recipes.items()
    }


def _filled(rows: list[Row]) -> list[Row]:
    """The same columns in all rows, and one type in each: numbers, or text."""
    columns: dict[str, list[Any]] = {
        key: [row.get(key) for row in rows] for key in dict.fromkeys(k for r in rows for k in r)
    }
    for key, values in columns.items():
        kinds = {type(value) for value in values if value is not None}
        if kinds <= {int, float} and len(kinds) > 1:
            columns[key] = [None if value is None else float(value) for value in values]
        elif not kinds <= {int, float} and kinds != {str} and kinds != {bool}:
            columns[key] = [None if value is None else _text(value) for value in values]
    return [{key: values[i] for key, values in columns.items()} for i in range(len(rows))]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
