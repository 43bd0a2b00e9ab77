"""A training that was suspended, and finds on waking that another attempt has taken its run over, writes nothing."""

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from building import TINY

pytestmark = [pytest.mark.timeout(600), pytest.mark.fire]

STEPS = ("trainer.steps=30", "trainer.checkpoint_every=1", "logger=wandb")
EVALUATED = ("evaluation=default", "evaluation.tiles=3", "data.scene_size=64", "evaluation.knn_pixels=500")


def command(run_dir: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "hybrid_patch.train", *TINY, *STEPS, f"run_dir={run_dir}", *overrides]


def in_a_step(run_dir: Path) -> bool:
    path = run_dir / "metrics.jsonl"
    return path.exists() and path.read_text().count("\n") >= 3


def in_a_checkpoint(run_dir: Path) -> bool:
    return in_a_step(run_dir) and any((run_dir / "checkpoints").glob(".*.part"))


def in_its_evaluation(run_dir: Path) -> bool:
    path = run_dir / "status.json"
    return path.exists() and json.loads(path.read_text())["reason"] == "evaluating"


def in_its_start(run_dir: Path) -> bool:
    return (run_dir / "lock.json").exists()


def writes(run_dir: Path) -> bool:
    """Whether a process holds the mutex of the run's writes at this moment."""
    with (run_dir / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def suspend(process: "subprocess.Popen[str]", run_dir: Path, at: Callable[[Path], bool]) -> None:
    """Suspend a training at some point, between two writes."""
    while True:
        while not at(run_dir):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        if not writes(run_dir):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def move_elsewhere(run_dir: Path) -> None:
    """As if the training were on another machine, whose last sign of life is long ago."""
    for name, changes in (("lock.json", {"machine": "another", "time": 0.0}), ("status.json", {"heartbeat": 0.0})):
        path = run_dir / name
        if path.exists():
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The content and the time of change of every file."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize(
    ("at", "overrides"),
    [(in_its_start, ()), (in_a_step, ()), (in_a_checkpoint, ()), (in_its_evaluation, EVALUATED)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_is_written_after_the_run_was_lost(
    tmp_path: Path, at: Callable[[Path], bool], overrides: tuple[str, ...]
) -> None:
    process = subprocess.Popen(command(tmp_path, *overrides), stderr=subprocess.PIPE, text=True)
    suspend(process, tmp_path, at)
    refused = subprocess.run(command(tmp_path, *overrides), capture_output=True, text=True)
    assert refused.returncode == 2
    assert f"process {process.pid}); wait for it, or end it" in refused.stderr  # it lives, on this machine
    move_elsewhere(tmp_path)
    done = subprocess.run(command(tmp_path, *overrides), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before = files(tmp_path)
    process.send_signal(signal.SIGCONT)
    printed = process.communicate(timeout=120)[1]
    assert process.returncode == 76, printed
    assert "this attempt has lost the run" in printed
    after = files(tmp_path)
    assert sorted(after) == sorted(before)
    assert [name for name in after if after[name] != before[name]] == []
