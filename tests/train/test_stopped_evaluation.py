"""An evaluation that is stopped, or killed, is taken up by the next start, which trains no step again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from building import TINY
from resumed_runs import metrics

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]  # a dozen times what a quiet machine takes

EVALUATED = (
    "evaluation=default",
    "evaluation.every=2",
    "evaluation.tiles=3",
    "evaluation.pictures=1",
    "evaluation.knn_pixels=500",
    "evaluation.train_pixels=2000",
    "data.scenes=6",
    "data.scene_size=96",  # several seconds, so that a signal comes before the end
    "trainer.steps=4",
    "trainer.keep_checkpoints=9",
)
LONG = (*EVALUATED, "evaluation.every=0", "data.scene_size=512", "evaluation.tiles=8", "trainer.steps=1")
"""Many minutes."""


def command(run_dir: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "hybrid_patch.train", *TINY, f"run_dir={run_dir}", *overrides]


def start(run_dir: Path, *overrides: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(command(run_dir, *overrides), text=True, stderr=subprocess.PIPE)


def run(run_dir: Path, *overrides: str) -> str:
    """Run to the end; what was printed."""
    done = subprocess.run(command(run_dir, *overrides), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def status(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "status.json"
    return json.loads(path.read_text()) if path.exists() else {}


def wait_for_evaluation(run_dir: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Until the status says that the run evaluates after a step."""
    while True:
        now = status(run_dir)
        if (now.get("reason"), now.get("step")) == ("evaluating", step):
            return
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.02)


def checkpoint_times(run_dir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run_dir / "checkpoints").iterdir()}


def scores(run_dir: Path) -> Any:
    return json.loads((run_dir / "evaluation.json").read_text())["features"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stops."""
    run_dir = tmp_path_factory.mktemp("straight")
    run(run_dir, *EVALUATED)
    return run_dir


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (4, signal.SIGTERM),
        pytest.param(4, signal.SIGKILL, marks=pytest.mark.fire),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.fire),
        pytest.param(2, signal.SIGKILL, marks=pytest.mark.fire),
    ],
)
def test_the_next_start_evaluates(straight: Path, tmp_path: Path, step: int, number: signal.Signals) -> None:
    process = start(tmp_path, *EVALUATED, "trainer.checkpoint_every=2")
    wait_for_evaluation(tmp_path, step, process)
    process.send_signal(number)
    printed = process.communicate()[1]
    if number == signal.SIGTERM:
        assert process.returncode == 75, printed
        now = status(tmp_path)
        assert (now["state"], now["step"]) == ("preempted", step)
        assert now["reason"] == f"stopped by SIGTERM in the evaluation after step {step}, saved"
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, step + 1))
    assert "probe_miou" not in rows[-1]
    saved = checkpoint_times(tmp_path)
    printed = run(tmp_path, *EVALUATED, "trainer.checkpoint_every=2")
    assert f"going on after step {step}\nevaluating after step {step}\nevaluating: " in printed
    assert saved.items() <= checkpoint_times(tmp_path).items()
    assert metrics(tmp_path) == metrics(straight)
    assert scores(tmp_path) == scores(straight)
    assert status(tmp_path)["state"] == "done"


def stop_process(process: "subprocess.Popen[str]") -> None:
    process.terminate()


def stop_other_process(process: "subprocess.Popen[str]") -> None:
    """The signal reaches the second process alone."""
    (other,) = psutil.Process(process.pid).children()
    other.terminate()


@pytest.mark.parametrize(
    ("processes", "ask"),
    [
        (1, stop_process),
        pytest.param(2, stop_process, marks=pytest.mark.fire),
        pytest.param(2, stop_other_process, marks=pytest.mark.fire),
    ],
)
def test_many_minutes_are_stopped_at_once(
    tmp_path: Path, processes: int, ask: Callable[["subprocess.Popen[str]"], None]
) -> None:
    shared = ("runtime.strategy=ddp", f"runtime.processes={processes}", "runtime.device=cpu") if processes > 1 else ()
    process = start(tmp_path, *LONG, *shared)
    wait_for_evaluation(tmp_path, 1, process)
    ask(process)
    printed = process.communicate(timeout=60)[1]
    assert process.returncode == 75, printed
    assert "Traceback" not in printed
    assert status(tmp_path)["state"] == "preempted"
    assert not (tmp_path / "evaluation.json").exists()
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["data.png"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.fire
def test_the_command_that_evaluates_writes_nothing(straight: Path, number: signal.Signals, code: int) -> None:
    before = files(straight)
    arguments: Sequence[str] = (f"run={straight}", "data.scene_size=512", "evaluation.tiles=8")
    process = subprocess.Popen(
        [sys.executable, "-m", "hybrid_patch.evaluate", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    time.sleep(20)  # in its imports, or at work
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert (process.returncode, printed) == (code, ""), errors
    assert errors.splitlines()[-1] == "stopped; nothing was written"
    assert "Traceback" not in errors
    assert files(straight) == before
