"""The manifest of a submitted sweep: its runs, and the arguments of each."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hybrid_patch.errors import InputError
from hybrid_patch.runs.records import DamagedFileError, Parser, parser, read_record

RUNS = Path("runs")
"""Where sweeps have their folders, below the working folder."""
MANIFEST = Path("launch") / "manifest.json"
SUBMISSIONS = Path("launch") / "submissions"
"""Within a sweep's folder. A submission's record lists its members as the manifest does."""
SUBMISSION = "submission.json"


class PlannedRun(NamedTuple):
    """The directory of a run, whether it has begun or not, and the arguments of its command line."""

    path: Path
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class _PlannedMember:
    id: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class _SweepRecord:
    members: tuple[_PlannedMember, ...]


SWEEP_RECORD_OF: Parser[_SweepRecord] = parser(_SweepRecord)


def planned_runs(sweep: Path) -> list[PlannedRun]:
    """The runs of a sweep's folder, in order: of its manifest or, if that cannot be read, of its submissions."""
    for files in ([sweep / MANIFEST], sorted((sweep / SUBMISSIONS).glob(f"*/{SUBMISSION}"))):
        records = []
        for file in files:
            with suppress(DamagedFileError, OSError):
                records.append(read_record(file, SWEEP_RECORD_OF))
        members = {member.id: member for record in records if record is not None for member in record.members}
        if members:
            return [PlannedRun(sweep / member.id, member.arguments) for member in members.values()]
    return []


def sweep_folder(name: str) -> Path:
    """The folder of a sweep: a path, or a name below RUNS."""
    return Path(name) if "/" in name else RUNS / name


def path_by_id(name: str, paths: Iterable[Path], missing: str) -> Path:
    """The path `SWEEP/ID` whose id begins or ends with a name (or `sweep/id`). Raises InputError unless it is exactly
    one; `missing` says what none is."""
    sweep, _, part = name.rpartition("/")
    matches = [
        path
        for path in paths
        if sweep in ("", path.parent.name) and (path.name.startswith(part) or path.name.endswith(part))
    ]
    matches = [path for path in matches if path.name == part] or matches
    if len(matches) != 1:
        several = f"could be {', '.join(map(str, matches[:5]))}; give more of it"
        raise InputError(f"{name}: {several if matches else missing}")
    return matches[0]
