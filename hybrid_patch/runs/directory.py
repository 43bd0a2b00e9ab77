"""A run on disk: what it is, its state, and what it measured."""

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat
from typing_extensions import TypedDict

from hybrid_patch.runs.atomic_files import write_json, write_text
from hybrid_patch.runs.lock import HEARTBEAT_SECONDS, LOCK_FILES, STALE_SECONDS, LockedFolder, LostLockError, is_alive
from hybrid_patch.runs.records import (
    DamagedFileError,
    Parser,
    last_row,
    parser,
    read_file,
    read_record,
    read_rows,
    read_yaml,
    require_file,
    set_aside,
)

CONFIG = "config.yaml"
"""The resolved config."""
IDENTITY = "run.json"
"""Id, recipe, commit, versions and machine."""
STATUS = "status.json"
METRICS = "metrics.jsonl"
"""A line per step, or per `trainer.log_every` steps."""
EVALUATION = "evaluation.json"
LOG = "log.txt"
OUTPUT = "output.txt"
"""All that a submitted run printed."""
ATTEMPTS = "attempts.jsonl"
"""Of a submitted run, a line per attempt that did not finish it."""
CHECKPOINTS = "checkpoints"
PICTURES = "pictures"
TEACHER = "teacher"
"""With `target=self`, what the teacher says."""
PROFILE = "profile.json.gz"
"""With `runtime.profile`, the trace of some steps."""
WANDB, TENSORBOARD, TABLE = LOGGED = "wandb", "tensorboard", "metrics.csv"
"""What the loggers of these names, and `csv`, write."""
FOLDERS = {CHECKPOINTS, PICTURES, TEACHER}
FILES = {*LOGGED, PROFILE, CONFIG, IDENTITY, STATUS, METRICS, EVALUATION, LOG, OUTPUT, ATTEMPTS, *FOLDERS, *LOCK_FILES}

EVALUATING = "evaluating"
"""The reason in the status of a run that evaluates."""
ENDED = ("preempted", "done", "failed")
"""States in which no attempt is at work."""
LINES_LOST = "lines_lost"
"""In the first line of metrics whose former lines a person gave up: up to which step."""
EVALUATED = "evaluation_seconds"
"""In the line of a step after which the run was evaluated: what that took, in success or not."""
AVERAGED = "averaged_steps"
"""In a line of metrics: the number of steps that it is of, if that is not 1."""
Row = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a run, as in `status.json`; an empty state if it has not begun.

    Attributes:
        heartbeat: the last sign of life, in seconds since 1970.
        attempt: of which this is the state, from 1.
        step, steps: optimizer steps made, and in all.
        cause, frame: of a failure: its kind, and the place in the code.
        evaluated, evaluation_work, evaluation_ends: of the evaluation that is at work: how much of how much work is
            done, and when it is expected to end, in seconds since 1970.
    """

    state: Literal["", "queued", "running", "preempted", "done", "failed"] = ""
    reason: str = ""
    heartbeat: FiniteFloat = 0.0
    attempt: Annotated[int, Field(ge=0)] = 0
    step: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=0)] | None = None
    host: str = ""
    pid: int = 0
    cause: str = ""
    frame: str = ""
    evaluated: Annotated[int, Field(ge=0)] = 0
    evaluation_work: Annotated[int, Field(ge=0)] | None = None
    evaluation_ends: FiniteFloat | None = None


def _with_state(status: Status) -> Status:
    if not status.state:
        raise ValueError("it has no state")
    return status


def _with_step(row: Row) -> Row:
    if not isinstance(row.get("step"), int) or not 1 <= row["step"] < 10**9:  # as names of checkpoints have digits
        raise ValueError("it has no step")
    return row


class Identity(TypedDict):
    """What `run.json` holds, and what else a later version writes there."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    run_id: str
    recipe: dict[str, Any]
    versions: NotRequired[dict[str, str]]
    machine: NotRequired[dict[str, Any]]
    began: NotRequired[Annotated[float, Field(ge=0, lt=1e11)]]  # seconds since 1970


class _Estimate(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    mean: Annotated[float, Field(ge=0, le=1)]
    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]


class _Scores(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    miou: _Estimate


class Evaluation(TypedDict, total=False):
    """What others read of `evaluation.json`: scores by features, classifier and pixels, and how they were made."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    step: int
    settings: dict[str, Any]
    tiles: dict[str, int]
    data: dict[str, Any]
    machine: dict[str, Any]
    features: dict[str, dict[str, dict[str, _Scores]]]
    scores: dict[str, float | None]


IDENTITY_OF: Parser[dict[str, Any]] = parser(Identity)
EVALUATION_OF: Parser[dict[str, Any]] = parser(Evaluation)
STATUS_OF: Parser[Status] = parser(Annotated[Status, AfterValidator(_with_state)])
ROW_OF: Parser[Row] = parser(
    Annotated[dict[str, Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | None], AfterValidator(_with_step)]
)


class RunDirectory(LockedFolder):
    """The files of one run. After `lock`, writes raise LostLockError once another attempt has taken the run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config = path / CONFIG
        self.evaluation = path / EVALUATION
        self.log = path / LOG
        self.output = path / OUTPUT
        self.attempts = path / ATTEMPTS
        self.checkpoints = path / CHECKPOINTS
        self.pictures = path / PICTURES
        self._metrics = path / METRICS
        self._identity = path / IDENTITY
        self._status = path / STATUS
        self._step = 0
        self._current = Status()

    def exists(self) -> bool:
        return self._identity.exists()

    def foreign_files(self) -> list[str]:
        """Names of up to three files in the directory that no run writes."""
        names = sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
        return [name for name in names if name not in FILES and ".part" not in name and ".damaged" not in name][:3]

    def identity(self) -> dict[str, Any]:
        """The content of `run.json`. Raises DamagedFileError, also if there is none."""
        identity = read_record(self._identity, IDENTITY_OF)
        if identity is None:
            raise DamagedFileError(self._identity, "absent")
        return identity

    def recipe(self) -> dict[str, Any]:
        return self.identity()["recipe"]

    def lock(self) -> None:
        """Keep other attempts out until `unlock` or this process's end. Raises InputError if one is at work."""
        status = self.status_if_whole()
        self.acquire(status.heartbeat, ended=status.state in ENDED)

    def alive(self) -> bool:
        """Whether an attempt is at work: its process lives, as far as can be told."""
        status = self.status_if_whole()
        try:
            return is_alive(self.holder(), status.heartbeat)
        except DamagedFileError:  # a living attempt makes it anew at its next heartbeat
            return status.state not in ENDED and time.time() - status.heartbeat < STALE_SECONDS

    def begin(self, config_yaml: str, identity: dict[str, Any], flush: bool = True) -> None:
        """Write the config, and the identity with its `provenance` unless the run has one: it keeps its results."""
        with self.held():
            try:
                same = read_file(self.config) == config_yaml.encode()
                if not same:
                    read_yaml(self.config)
            except DamagedFileError:
                set_aside(self.config)
                same = False
            if not same:
                write_text(self.config, config_yaml, flush)
            if not self.exists():
                write_json(self._identity, identity, flush)

    def describe_data(self, description: dict[str, Any]) -> None:
        """Add what the data are to the identity."""
        with self.held():
            write_json(self._identity, {**self.identity(), "data": description})

    def status(self) -> Status:
        """The content of `status.json`; an empty `Status` if the run has not begun. Raises DamagedFileError."""
        return read_record(self._status, STATUS_OF) or Status()

    def status_if_whole(self) -> Status:
        """The status; as of a run that has not begun if its file is damaged, for whoever will make it anew."""
        try:
            return self.status()
        except DamagedFileError:
            return Status()

    def evaluated(self) -> dict[str, Any]:
        """The content of `evaluation.json`; empty if there is none. Raises DamagedFileError."""
        return read_record(self.evaluation, EVALUATION_OF) or {}

    def mend(self) -> list[str]:
        """Move aside what is damaged and can be made anew: for the attempt that has the lock. Returns what it did."""
        readers: dict[Path, Callable[[Path], object]] = {
            self.config: read_yaml,
            self._identity: partial(read_record, parse=IDENTITY_OF),
            self._status: partial(read_record, parse=STATUS_OF),
            **dict.fromkeys((self.attempts, self.log, self.output, self.evaluation), require_file),
        }
        lines = []
        with self.held():
            for path, read in readers.items():
                try:
                    read(path)
                except DamagedFileError as error:
                    lines.append(str(error.with_remedy(f"made anew, and set aside as {set_aside(path).name}")))
        return lines

    def set_status(self, state: str, reason: str = "", **more: int | float | str) -> None:
        """Write `status.json`: the state and what else has changed."""
        with self.held():
            nothing: dict[str, Any] = {"cause": "", "frame": "", "evaluation_work": None, "evaluation_ends": None}
            before = replace(self._last_status(), **nothing)
            changes: dict[str, Any] = {"attempt": max(before.attempt, 1), **more, "state": state, "reason": reason}
            self._write_status(replace(before, **changes, host=socket.gethostname(), pid=os.getpid()))

    def _last_status(self) -> Status:
        """The status to change: if its file is damaged, what this object last wrote."""
        try:
            return self.status()
        except DamagedFileError:
            set_aside(self._status)
            return self._current

    def _write_status(self, status: Status) -> None:
        self._current = replace(status, heartbeat=time.time())
        write_json(self._status, asdict(self._current))

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Report inside the block that the run is alive, however long a step or an evaluation takes.

        If somebody has asked it to stop, it sends itself SIGTERM, as whatever had started it may be gone.
        """
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                try:
                    with self.held():
                        status = self._last_status()
                        if status.state == "running":
                            self._write_status(replace(status, step=max(status.step, self._step)))
                        holder = self.holder()
                    if holder is not None and holder.asked_to_stop:
                        os.kill(os.getpid(), signal.SIGTERM)
                except LostLockError:
                    return  # the run itself ends at its next write
                except OSError as error:
                    log.warning("no heartbeat could be written: %s", error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def covered_steps(self) -> int | None:
        """How many steps the metrics have without a gap, from the first on; None if there is no such file."""
        rows = self.metrics()
        if not os.path.lexists(self._metrics):
            return None
        covered = int(rows[0].get(LINES_LOST) or 0) - 1 if rows and LINES_LOST in rows[0] else 0
        for row in rows:
            if row["step"] != covered + int(row.get(AVERAGED) or 1):
                break
            covered = row["step"]
        return covered

    def restore_metrics(self, steps: int) -> None:
        """Leave the metrics of the first `steps` steps, one line each; without the file, a line that says so."""
        with self.held():
            rows = [row for row in self.metrics() if row["step"] <= steps]
            if steps and not self._metrics.exists():
                log.warning("%s is gone, and with it the lines of %d steps", self._metrics, steps)
                rows = [{"step": steps, LINES_LOST: steps}]
            write_text(self._metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def add_metrics(self, row: Row) -> None:
        """Append a line, whose step the next heartbeat reports."""
        with self.held(), self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._step = row["step"]

    def replace_metrics(self, row: dict[str, Any]) -> None:
        """Write the line of a step anew."""
        with self.held():
            rows = [row if each["step"] == row["step"] else each for each in self.metrics()]
            write_text(self._metrics, "".join(json.dumps(each) + "\n" for each in rows))

    def flush_metrics(self) -> None:
        with self.held(), self._metrics.open("a") as file:
            os.fsync(file.fileno())

    def last_metrics(self) -> Row:
        """The last whole line of the metrics; empty if there is none."""
        return last_row(self._metrics, ROW_OF) or {}

    def metrics(self) -> list[Row]:
        """The metrics of all steps, one row each, in order; lines that say none are left out. Raises DamagedFileError
        if the file is no file."""
        by_step: dict[int, Row] = {row["step"]: row for row in read_rows(self._metrics, ROW_OF)}
        return [by_step[step] for step in sorted(by_step)]
