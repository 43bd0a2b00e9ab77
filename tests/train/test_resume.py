"""A run that is stopped, by whatever, goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from building import TINY
from resumed_runs import metrics, same, wait_for_step

STEPS = 40


def command(run_dir: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "hybrid_patch.train",
        *TINY,
        f"trainer.steps={STEPS}",
        f"run_dir={run_dir}",
        *overrides,
    ]


def run(run_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(run_dir, *overrides), capture_output=True, text=True, timeout=240)


def last_state(run_dir: Path) -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / f"step_{STEPS:09d}.pt", weights_only=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all steps without a stop."""
    run_dir = tmp_path_factory.mktemp("straight")
    done = run(run_dir)
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.mark.sample(1)
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_started_again_is_the_same_to_the_last_bit(straight: Path, tmp_path: Path, workers: int) -> None:
    slow = (f"runtime.workers={workers}", "trainer.checkpoint_every=4")
    process = subprocess.Popen(command(tmp_path, *slow), text=True, stderr=subprocess.DEVNULL)
    wait_for_step(tmp_path, 10, process)
    process.kill()
    process.wait()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"
    assert run(tmp_path, *slow).returncode == 0
    assert metrics(tmp_path) == metrics(straight)
    assert same(last_state(tmp_path), last_state(straight))
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["attempt"], status["step"]) == ("done", 2, STEPS)


@pytest.mark.sample(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_saves_and_ends_with_75(straight: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        command(tmp_path, "runtime.workers=1"), text=True, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for_step(tmp_path, 2, process)
    os.killpg(process.pid, number)  # as a terminal or a scheduler does: the workers get it too
    _, said = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the run was done before the signal came")
    assert process.returncode == 75, said
    assert "Traceback" not in said
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "preempted"
    assert number.name in status["reason"]
    assert len(metrics(tmp_path)) == status["step"] < STEPS
    assert run(tmp_path).returncode == 0
    assert metrics(tmp_path) == metrics(straight)
    assert same(last_state(tmp_path), last_state(straight))


@pytest.mark.full
def test_a_checkpoint_that_lost_a_part_is_passed_over(straight: Path, tmp_path: Path) -> None:
    every = ("trainer.checkpoint_every=10", "trainer.keep_checkpoints=9")
    assert run(tmp_path, *every).returncode == 0
    newest = tmp_path / "checkpoints" / f"step_{STEPS:09d}.pt"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    (tmp_path / "status.json").unlink()
    done = run(tmp_path, *every)
    assert done.returncode == 0
    assert f"damaged: {newest}, " in done.stderr
    assert "going on after step 30" in done.stderr
    assert metrics(tmp_path) == metrics(straight)
    assert same(last_state(tmp_path), last_state(straight))


@pytest.mark.full
def test_after_a_damaged_checkpoint_new_ones_are_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "trainer.checkpoint_every=10", "trainer.keep_checkpoints=2").returncode == 0
    folder = tmp_path / "checkpoints"
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    (tmp_path / "status.json").unlink()
    refused = run(tmp_path)
    assert refused.returncode == 2
    assert "no checkpoint there can be read" in refused.stderr.splitlines()[-1]
    assert len(metrics(tmp_path)) == STEPS


def test_a_run_that_is_done_is_left_alone(straight: Path) -> None:
    before = (straight / "metrics.jsonl").stat().st_mtime_ns
    done = run(straight)
    assert done.returncode == 0
    assert "done already" in done.stderr
    assert (straight / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_run_in_the_same_directory_is_refused(straight: Path) -> None:
    refused = run(straight, "optimizer.lr=0.5")
    assert refused.returncode == 2
    assert "optimizer.lr: 0.001 -> 0.5" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_run_directory_says_what_was_run(straight: Path) -> None:
    identity = json.loads((straight / "run.json").read_text())
    assert identity["recipe"]["trainer"]["steps"] == STEPS
    assert identity["versions"]["torch"] == torch.__version__
    row = metrics(straight)[0]
    assert {"step", "loss", "lr", "decoded", "visible", "context"} <= row.keys()
    assert [r["step"] for r in metrics(straight)] == list(range(1, STEPS + 1))
    assert f"step {STEPS}/{STEPS}" in (straight / "log.txt").read_text()
    parts = [path for path in straight.rglob("*") if path.name.endswith(".part")]
    assert parts == []
