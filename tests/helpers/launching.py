"""Launch sweeps as a person does, in a folder of their own, and check what must hold of their runs afterwards."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from building import TINY

ROOT = Path(__file__).resolve().parents[2]
QUICK = [*TINY, "trainer.checkpoint_every=20"]
"""A run of a few milliseconds a step."""


def launch(folder: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`python -m launch words` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "launch", *words],
        cwd=folder,
        env=variables(folder, environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def variables(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """The environment: this checkout's code, and slots that no other test on this machine shares."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), **more}


def submitted(folder: Path, *words: str, **environment: str) -> list[Path]:
    """Submit a sweep of quick runs named `mine`; the run directories of its members, in order."""
    done = launch(folder, "submit", *QUICK, "sweep_name=mine", *words, **environment)
    assert done.returncode == 0, done.stderr
    return run_directories(folder)


def run_directories(folder: Path) -> list[Path]:
    """The run directories of the sweep `mine`, as its manifest lists them."""
    sweep = folder / "runs" / "mine"
    return [sweep / row["id"] for row in json.loads((sweep / "launch" / "manifest.json").read_text())["members"]]


def status(run: Path) -> dict[str, Any]:
    """The content of a run's `status.json`; empty if there is none yet, or one that a test has damaged."""
    file = run / "status.json"
    try:
        content: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError:
        return {}
    return content


def steps_of(run: Path) -> list[int]:
    """The steps of the metrics, line by line."""
    file = run / "metrics.jsonl"
    return (
        [json.loads(line)["step"] for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if (file.exists())
        else []
    )


def attempts_of(run: Path) -> list[dict[str, Any]]:
    """The attempts that ended without finishing the run."""
    file = run / "attempts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def until(condition: Callable[[], object], seconds: float = 400) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def until_step(run: Path, step: int) -> None:
    """Wait until a run has made a step."""
    until(lambda: len(steps_of(run)) >= step)


def until_done(*runs: Path, seconds: float = 200) -> None:
    """Wait until runs report that they are done."""
    until(lambda: all(status(run).get("state") == "done" for run in runs), seconds)


def check_whole(run: Path, steps: int) -> None:
    """Check that a run is done, with every step exactly once, nothing half-written and no lock."""
    until(lambda: not (run / "lock.json").exists())
    assert status(run)["state"] == "done"
    assert steps_of(run) == list(range(1, steps + 1))
    assert not list(run.rglob("*.part"))
    assert (run / "checkpoints" / f"step_{steps:09d}.pt").exists()
