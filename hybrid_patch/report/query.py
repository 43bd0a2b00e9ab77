"""Runs that match conditions, as a table in the terminal."""

import json
import math
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from hybrid_patch.config.field_types import Count
from hybrid_patch.config.messages import did_you_mean, no_such_option
from hybrid_patch.config.options import Flag, Option, Overrides
from hybrid_patch.config.recipe import leaves
from hybrid_patch.config.sources import Sources, chosen_sources
from hybrid_patch.errors import DONE, InputError, number_of
from hybrid_patch.report.export import Row
from hybrid_patch.report.grouping import STATES, members_of
from hybrid_patch.report.load_runs import Run, find_runs, load_run
from hybrid_patch.report.metrics import MEASURES
from hybrid_patch.report.run_table import config_leaves, run_values
from hybrid_patch.runs.records import read_yaml
from hybrid_patch.runs.sweep_manifest import RUNS, sweep_folder

CONDITION = re.compile(r"([A-Za-z_][\w.\[\]-]*?)\s*(!=|>=|<=|=|>|<)\s*(.*)", re.DOTALL)
ORDER: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
SHOWN = ("miou", "knn_miou", "step_seconds")
"""Columns of every table, beside those of the conditions and of the order."""


class Conditions(Overrides):
    """A tuple of conditions, passed on as they were typed."""

    def takes(self, argument: str) -> bool:
        return CONDITION.fullmatch(argument) is not None


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """Which runs to show, and how many."""

    conditions: Annotated[
        tuple[str, ...],
        Conditions(
            {
                '"KEY=VALUE" ...': "runs of which all of these hold: KEY is a key or group of the config, a metric, a "
                "score or a cost, as upsampler=guided, state=done or step_seconds; also !=, >=, <=, > and < (quoted)"
            }
        ),
    ] = ()
    sweep: Annotated[
        str | None, Option("SWEEP", "a name below runs/, or a folder of runs (default: all that is below runs/)")
    ] = None
    sort: Annotated[str | None, Option("KEY", "highest first; -KEY: lowest first; runs without it come last")] = None
    limit: Annotated[Count | None, Option("N", "show this many")] = None
    config_dir: Annotated[
        Path | None, Flag("--config-dir", "a folder of more config groups, whose options conditions may name", "DIR")
    ] = None


class Condition(NamedTuple):
    """What must hold of a value for a run to be shown."""

    key: str
    sign: str
    value: str

    @classmethod
    def read(cls, text: str) -> "Condition":
        match = CONDITION.fullmatch(text)
        assert match is not None
        condition = cls(*match.groups())
        if condition.sign in ORDER and number_in(condition.value) is None:
            raise InputError(f"{text}: not a number; {condition.sign} compares numbers")
        if condition.key == "state" and condition.value not in STATES:
            raise InputError(no_such_option("state", condition.value, STATES))
        return condition

    def holds(self, values: Row) -> bool:
        """Whether a run's value is as wanted; a run that has no such value is never shown."""
        value = value_of(values, self.key)
        if value is None and self.value != "null":
            return False
        if self.sign not in ORDER:
            return is_equal(value, self.value) == (self.sign == "=")
        number = number_in(value)
        wanted = number_in(self.value)
        return number is not None and wanted is not None and ORDER[self.sign](number, wanted)


def query_command(options: QueryOptions) -> int:
    """Show the runs that match conditions, as a table: from `runs/` or of a sweep."""
    folder = RUNS if options.sweep is None else sweep_folder(options.sweep)
    rows = [(run, run_values(run, config_leaves(run))) for run in map(load_run, find_runs([folder]))]
    conditions = [Condition.read(text) for text in options.conditions]
    order = options.sort.removeprefix("-") if options.sort else None
    every = [values for _, values in rows]
    sources = chosen_sources(config_dir=options.config_dir)
    tests = [_test(condition, every, sources) for condition in conditions]
    if order is not None:
        require_key(order, every)
    matching = [(run, values) for run, values in rows if all(test(values) for test in tests)]
    if options.sort:
        matching = _sorted(matching, options.sort)
    keys = [condition.key for condition in conditions if condition.sign != "="] + ([order] if order else [])
    labels = {run.path: member.label for member in members_of([run for run, _ in rows])[0] for run in member.runs}
    _print(matching[: options.limit], list(dict.fromkeys([*keys, *SHOWN])), labels)
    print(f"{len(matching)} of {number_of(len(rows), 'run')}")
    return DONE


def value_of(values: Row, key: str) -> Any:
    """A score or cost by its bare name, else a value by its key, or the option of a group; None if there is none."""
    for name in (f"score.{key}", f"cost.{key}", key, f"{key}.name"):
        if values.get(name) is not None:
            return values[name]
    return None


def number_in(value: object) -> float | None:
    """A number, also one that is written; None for anything else, and for NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def is_equal(value: Any, text: str) -> bool:
    """Whether a value is the one that a person has typed."""
    numbers = number_in(value), number_in(text)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if isinstance(value, str):
        return value == text
    written = f"[{','.join(map(str, value))}]" if isinstance(value, list) else json.dumps(value)
    return written == (text.replace(" ", "") if isinstance(value, list) else text)


def require_key(key: str, rows: Sequence[Row]) -> None:
    """Raises InputError if no run has a value of a key, unless it is a score or a cost that a run may have."""
    if any(value_of(values, key) is not None for values in rows):
        return
    names = {name for values in rows for name in values} | MEASURES.keys()
    names |= {name.removesuffix(".name").removeprefix("score.").removeprefix("cost.") for name in names}
    if key not in names:
        raise InputError(f"{key}: no run has such a value{did_you_mean(key, sorted(names))}")


def _test(condition: Condition, rows: Sequence[Row], sources: Sources) -> Callable[[Row], bool]:
    """Whether a run is as a condition wants it. Raises InputError for a key that no run has."""
    group = f"{condition.key}."
    below = [values for values in rows if any(name.startswith(group) for name in values)]
    if not below or any(f"{group}name" in values for values in below) or condition.sign in ORDER:
        require_key(condition.key, rows)
        return condition.holds
    # The options of this group have no names: a run has chosen the one whose values it has.
    options = sources.groups().get(condition.key, [])
    if condition.value not in options:
        raise InputError(no_such_option(condition.key, condition.value, options))
    files = [folder / condition.key / f"{condition.value}.yaml" for folder in (sources.folder, sources.extra) if folder]
    plain = read_yaml(next(file for file in files if file.exists())) or {}
    plain.pop("defaults", None)
    wanted = {f"{group}{name}": json.loads(value) for name, value in leaves(plain) if "${" not in value}
    return lambda values: ({key: values.get(key) for key in wanted} == wanted) == (condition.sign == "=")


def _sorted(rows: list[tuple[Run, Row]], key: str) -> list[tuple[Run, Row]]:
    """Highest first, with a `-` before the key lowest first; texts after numbers, and runs without the value last."""
    name, sign = (key[1:], 1) if key.startswith("-") else (key, -1)

    def position(row: tuple[Run, Row]) -> tuple[int, float, str]:
        value = value_of(row[1], name)
        number = number_in(value)
        return (2, 0.0, "") if value is None else (1, 0.0, str(value)) if number is None else (0, sign * number, "")

    return sorted(rows, key=position)


def _print(rows: Sequence[tuple[Run, Row]], keys: Sequence[str], labels: Mapping[Path, str]) -> None:
    table = Table("run", "seed", "state", *keys, "folder")
    for run, values in rows:
        cells = [_cell(value_of(values, key)) for key in keys]
        table.add_row(labels[run.path], _cell(run.seed), run.state, *cells, str(run.path))
    print_tables(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_tables(*tables: Table) -> None:
    """Print; never cut to a width where the output is no terminal."""
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(*tables, sep="\n")
