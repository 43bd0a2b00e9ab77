"""The manifest of a submitted sweep: its runs, and the arguments of each."""

import json
from pathlib import Path
from typing import NamedTuple

MANIFEST = Path("launch") / "manifest.json"
"""Within a sweep's folder."""


class PlannedRun(NamedTuple):
    """The directory of a run, whether it has begun or not, and the arguments of its command line."""

    path: Path
    arguments: tuple[str, ...]


def planned_runs(sweep: Path) -> list[PlannedRun]:
    """The runs of a sweep's folder, in order; empty if it has no manifest that can be read."""
    try:
        rows = json.loads((sweep / MANIFEST).read_text())["members"]
        return [PlannedRun(sweep / row["id"], tuple(row["arguments"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []
