"""What the commands print: sizes, intervals, tables, and progress on stderr."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hybrid_patch.runs.atomic_files import write_json
from hybrid_patch.runs.provenance import provenance

WIDTH = 170
"""Of tables that are not printed to a terminal."""


def format_bytes(number: float | int) -> str:
    """A size with its unit: `1.5 GiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            size = number / 1024**power
            return f"{size:.3g} {unit}" if size < 999.5 else f"{size:.0f} {unit}"
    return f"{number:.0f} B"


def format_interval(interval: Mapping[str, float], spec: str) -> str:
    """A median with its interval: `1.23 (1.20–1.31)`."""
    return f"{interval['median']:{spec}} ({interval['low']:{spec}}–{interval['high']:{spec}})"


def table(title: str, rows: Iterable[Mapping[str, str] | None], caption: str | None = None) -> Table:
    """A table of rows, cells by column; None draws a line. Columns of numbers are aligned right."""
    rows = list(rows)
    shown = Table(title=title, caption=caption)
    for column in dict.fromkeys(column for row in rows if row for column in row):
        has_numbers = any(row.get(column, "")[:1].isdigit() for row in rows if row)
        shown.add_column(column, justify="right" if has_numbers else "left")
    for row in rows:
        if row is None:
            shown.add_section()
        else:
            shown.add_row(*(row.get(str(column.header), "") for column in shown.columns))
    return shown


def publish(report: Mapping[str, Any], tables: Iterable[Table], output: Path | None) -> None:
    """Print a report's tables; write it, with the machine and the command's arguments, to a JSON file if given."""
    # Overrides in brackets are no markup.
    Console(width=None if sys.stdout.isatty() else WIDTH, markup=False).print(*tables)
    if output is not None:
        write_json(output, {"machine": provenance(), "command": " ".join(sys.argv[1:]), **report})


def log(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
