"""A table, `metrics.csv`."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hybrid_patch.runs.atomic_files import write_text
from hybrid_patch.runs.directory import TABLE
from hybrid_patch.train.loggers.backend import Backend, LoggedRun, prefixed


class CsvBackend(Backend):
    """A line per row of `metrics.jsonl`, and a column per metric; empty where a row has none.

    The file is written whole when the run starts, from the rows so far, when an evaluation adds columns, and when an
    evaluation that was taken up after a stop comes with the step of the last line, whose place it takes.
    """

    def __init__(self, run: LoggedRun) -> None:
        self.permit = run.directory.held
        self.path = run.directory.path / TABLE
        self.columns = ["step"]
        rows = [{"step": row["step"], **prefixed(row)} for row in run.directory.metrics() if row["step"] <= run.step]
        self.step = rows[-1]["step"] if rows else None
        self._write(rows)

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        row = {"step": step, **values}
        repeated, self.step = step == self.step, step
        if repeated or not row.keys() <= set(self.columns):
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            self._write([*(rows[:-1] if repeated else rows), row])
        else:
            with self.permit(), self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def log_pictures(self, step: int, paths: Sequence[Path]) -> None:
        """A table has no pictures; they are in the run's folder."""

    def close(self) -> str:
        return ""

    def _write(self, rows: Iterable[Mapping[str, object]]) -> None:
        rows = list(rows)
        self.columns = list(dict.fromkeys([*self.columns, *(name for row in rows for name in row)]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        with self.permit():
            write_text(self.path, text.getvalue())
