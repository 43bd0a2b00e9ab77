"""What the commands print: sizes, intervals, tables, and progress on stderr."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hybrid_patch.runs.atomic_files import write_json

WIDTH = 170
"""Of tables that are not printed to a terminal."""

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def format_bytes(number: float | int) -> str:
    """A size with its unit: `1.5 GiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if number >= UNITS[unit]:
            size = number / UNITS[unit]
            return f"{size:.3g} {unit}" if size < 999.5 else f"{size:.0f} {unit}"
    return f"{number:.0f} B"


def format_interval(interval: Mapping[str, float], spec: str) -> str:
    """A median with its interval: `1.23 (1.20–1.31)`."""
    return f"{interval['median']:{spec}} ({interval['low']:{spec}}–{interval['high']:{spec}})"


def publish(report: Mapping[str, Any], tables: Iterable[Table], output: Path | None) -> None:
    """Print a report's tables, and write it to a JSON file if one is given."""
    Console(width=None if sys.stdout.isatty() else WIDTH).print(*tables)
    if output is not None:
        write_json(output, report)


def log(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def new_table(title: str, columns: Sequence[str], text_columns: Sequence[str], caption: str | None = None) -> Table:
    """An empty table whose columns are aligned right, but for those of text."""
    table = Table(title=title, caption=caption)
    for column in columns:
        table.add_column(column, justify="left" if column in text_columns else "right")
    return table
