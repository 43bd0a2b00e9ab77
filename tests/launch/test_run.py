"""Sweeps in the foreground, as real processes: what the terminal shows, and what the exit code means."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import QUICK, check_whole, launch, run_directories, status, steps_of, until, until_step, variables
from queue_processes import trainings

from launch.foreground import exit_code
from launch.status import MemberStatus, State
from launch.sweep import SweepMember

pytestmark = pytest.mark.timeout(900)  # a dozen times what a quiet machine takes
RUN = ("run", *QUICK, "sweep_name=mine", "cluster.slots=1")


def states(stdout: str) -> list[str]:
    """The state of each member in the summary."""
    ends = ("done", "bad input", "cancelled", "failed", "not started")
    lines = [line for line in stdout.splitlines() if not line.startswith("[")]
    return [next(s for s in ends if line.startswith(s)) for line in lines if line.startswith(ends)]


def test_bad_and_repeated_and_failing_members_stop_no_other(tmp_path: Path) -> None:
    words = (*RUN, "data.tile=16,20", "patch=hybrid", "runtime.workers=0,1", "trainer.steps=5")
    done = launch(tmp_path, *words)
    assert (done.returncode, states(done.stdout)) == (2, ["done", "bad input", "bad input"]), done.stderr
    assert done.stderr.count("\n") == 2
    assert "data.tile=20" in done.stderr
    assert "1 member left out: the same run as one before" in done.stdout
    assert done.stdout.endswith("1 of 3 done\n")
    (run,) = run_directories(tmp_path)
    # A member of five steps may be done before the first look at it.
    assert re.search(rf"(?m)^\[1/1\] (running|done) .*  {re.escape(str(run))}$", done.stdout)
    assert "[1/1] done" in done.stdout
    check_whole(run, 5)
    (run / "status.json").unlink()
    broken = run / "checkpoints"
    broken.rename(run / "moved")
    broken.touch()  # no folder can be made there
    again = launch(tmp_path, *RUN, "data.tile=16", "patch=hybrid", "trainer.steps=5", "cluster.retries.error=0")
    assert (again.returncode, states(again.stdout)) == (1, ["failed"])
    assert "launch resume mine" in again.stdout


def test_if_no_member_is_good_nothing_is_run(tmp_path: Path) -> None:
    done = launch(tmp_path, *RUN, "upsampler=no,never", "seed=0,1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []
    elsewhere = launch(tmp_path, *RUN, "cluster=slurm")
    assert (elsewhere.returncode, elsewhere.stderr.count("\n")) == (2, 1)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_member_and_the_same_command_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    words = (*RUN, "seed=0,1", "trainer.steps=400")
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", *words],
        cwd=tmp_path,
        env=variables(tmp_path, {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: (tmp_path / "runs" / "mine" / "launch" / "manifest.json").exists())
    first, second = run_directories(tmp_path)
    until_step(first, 5)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=300)
    assert (process.returncode, states(printed)) == (75, ["cancelled", "cancelled"])
    assert "the same command goes on" in printed
    assert not trainings(tmp_path)
    saved = status(first)["step"]
    assert steps_of(first) == list(range(1, saved + 1))
    assert not (second / "status.json").exists()
    if number == signal.SIGINT:
        again = launch(tmp_path, *words)
        assert (again.returncode, states(again.stdout)) == (0, ["done", "done"])
        assert f"going on after step {saved}" in (first / "log.txt").read_text()
        for run in (first, second):
            check_whole(run, 400)


@pytest.mark.parametrize(
    ("ends", "invalid", "interrupted", "code"),
    [
        (["done", "done"], 0, False, 0),
        (["done", "done"], 0, True, 0),
        (["done"], 1, False, 2),
        (["done", "bad input"], 0, False, 2),
        (["bad input", "failed"], 0, False, 1),
        (["failed"], 1, False, 1),
        (["failed", "stopped"], 0, False, 1),
        (["failed", "stopped"], 0, True, 75),
        (["failed", "missing"], 0, True, 75),
        (["done", "stopped"], 0, False, 75),
    ],
)
def test_the_code_of_a_sweep(ends: list[State | str], invalid: int, interrupted: bool, code: int) -> None:
    member = SweepMember(id="a", arguments=(), nodes=1, processes=1, workers=0, cuda=False, memory=None)
    statuses = [
        MemberStatus(member=member, state="failed" if end == "bad input" else end, cause=end)  # type: ignore[arg-type]
        for end in ends
    ]
    assert exit_code(statuses, invalid, interrupted) == code
