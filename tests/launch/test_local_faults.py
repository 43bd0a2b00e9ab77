"""What can happen to sweeps on this machine's slots: to their members, their queue and their disk."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from launching import (
    QUICK,
    attempts_of,
    check_whole,
    launch,
    run_directories,
    status,
    steps_of,
    submitted,
    until,
    until_done,
    until_step,
    variables,
)
from queue_processes import fill, pid_of, processes, server, trainings

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]  # a dozen times what a quiet machine takes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    until(lambda: subprocess.run(["umount", disk], capture_output=True).returncode == 0)


def test_failures_are_told_apart_and_stop_no_other(tmp_path: Path) -> None:
    """A member that raises, one that is killed -9 once, one that is out of memory, one that cannot learn."""
    words = ("seed=0,1", "trainer.steps=200", "cluster.slots=2", "cluster.retries.error=0")
    dry_run = launch(tmp_path, "submit", *QUICK, "sweep_name=mine", *words, "dry_run=true").stdout
    ids = [word for line in dry_run.splitlines() for word in line.split() if word.startswith("hybrid8-1_")]
    broken = tmp_path / "runs" / "mine" / ids[0] / "checkpoints"
    broken.parent.mkdir(parents=True)
    broken.touch()  # no folder can be made there
    raises, killed = submitted(tmp_path, *words)
    until_step(killed, 25)
    os.kill(pid_of(killed), signal.SIGKILL)
    until_done(killed)
    check_whole(killed, 200)
    assert [row["cause"] for row in attempts_of(killed)] == ["killed"]
    until(lambda: status(raises).get("state") == "failed")
    printed = launch(tmp_path, "status")
    assert printed.returncode == 1
    assert "1 done, 1 failed" in printed.stdout
    assert "1 × error at runs/atomic_files.py" in printed.stdout
    assert "again: hybrid-patch launch resume mine --failed-only" in printed.stdout
    broken.unlink()
    assert launch(tmp_path, "resume", "mine", "--failed-only").returncode == 0
    until_done(raises)
    check_whole(raises, 200)


def test_out_of_memory_is_not_tried_again(tmp_path: Path) -> None:
    limited = [
        "bash",
        "-c",
        'ulimit -v 4500000; exec "$@"',
        "limited",
        sys.executable,
        "-m",
        "launch",
        "submit",
        *QUICK,
        "sweep_name=mine",
        "trainer.steps=5",
        "model.encoder={width:6144,depth:1,heads:4,mlp_ratio:2.0}",
    ]
    subprocess.run(limited, cwd=tmp_path, env=variables(tmp_path, {}), check=True, timeout=200)
    (run,) = run_directories(tmp_path)
    until(lambda: status(run).get("state") == "failed")
    until(lambda: attempts_of(run))
    assert [row["cause"] for row in attempts_of(run)] == ["out of memory"]
    assert "1 × out of memory at" in launch(tmp_path, "wait").stdout


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    (run,) = submitted(small_disk, "trainer.steps=400", TMPDIR=str(tmp_path))
    until_step(run, 25)
    filler = fill(small_disk)
    until(lambda: status(run).get("state") == "failed" or attempts_of(run) or not (run / "lock.json").exists())
    filler.unlink()
    until(lambda: attempts_of(run))
    assert attempts_of(run)[-1]["cause"] == "disk full"
    until(lambda: status(run)["state"] == "failed")
    assert launch(small_disk, "resume", "mine", TMPDIR=str(tmp_path)).returncode == 0
    until_done(run)
    check_whole(run, 400)


def test_a_full_disk_costs_no_other_member_its_turn(tmp_path: Path, small_disk: Path) -> None:
    """The queue's own words have no room either."""
    first, second = submitted(small_disk, "seed=0,1", "trainer.steps=150", "cluster.slots=1", TMPDIR=str(tmp_path))
    until_step(first, 25)
    filler = fill(small_disk)
    (training,) = trainings(small_disk).values()
    until(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE)
    time.sleep(3)  # the queue tries to say so, and cannot
    filler.unlink()
    until_done(second)
    check_whole(second, 150)
    assert attempts_of(first)[-1]["cause"] == "disk full"
    assert launch(small_disk, "resume", "mine", TMPDIR=str(tmp_path)).returncode == 0
    until_done(first)
    check_whole(first, 150)


def test_it_outlives_terminal_wait_and_queue(tmp_path: Path) -> None:
    """The terminal is closed, Ctrl-C ends `wait`, and the queue's own process is killed: no member is run twice."""
    terminal = subprocess.Popen(
        [
            *(sys.executable, "-m", "launch", "submit", *QUICK, "sweep_name=mine"),
            *("seed=0,1", "trainer.steps=200", "cluster.slots=1"),
        ],
        cwd=tmp_path,
        env=variables(tmp_path, {}),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    assert terminal.wait(timeout=100) == 0
    first, second = run_directories(tmp_path)
    until_step(first, 5)
    wait = subprocess.Popen(
        [sys.executable, "-m", "launch", "wait"],
        cwd=tmp_path,
        env=variables(tmp_path, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait.stdout is not None
    assert "1 running, 1 queued" in wait.stdout.readline()
    wait.send_signal(signal.SIGINT)
    assert "still running" in wait.communicate(timeout=60)[1]
    assert wait.returncode == 130
    os.kill(server(tmp_path), signal.SIGKILL)
    printed = launch(tmp_path, "status").stdout
    assert "1 running, 1 missing" in printed or "1 done, 1 missing" in printed
    assert launch(tmp_path, "resume").returncode == 0
    until_done(first, second)
    for run in (first, second):
        check_whole(run, 200)
        assert attempts_of(run) == []


def test_cancel_saves_and_resume_goes_on(tmp_path: Path) -> None:
    runs = submitted(tmp_path, "seed=0,1", "trainer.steps=200", "cluster.slots=1")
    first = runs[0]
    until_step(first, 25)
    assert launch(tmp_path, "cancel", "mine").returncode == 0
    until(lambda: not Path(f"/proc/{server(tmp_path)}").exists())
    assert status(first)["state"] == "preempted"
    assert len(steps_of(first)) == status(first)["step"]
    assert "2 cancelled" in launch(tmp_path, "status").stdout
    submissions = tmp_path / "runs" / "mine" / "launch" / "submissions"
    before = len(list(submissions.iterdir()))
    dry = launch(tmp_path, "resume", "mine", "dry_run=true")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.endswith(f"dry_run: {len(runs)} members would be submitted again\n")
    assert len(list(submissions.iterdir())) == before
    assert launch(tmp_path, "resume", "mine").returncode == 0
    until_done(*runs)
    for run in runs:
        check_whole(run, 200)


def test_cancelled_members_are_let_go_and_taken_again(tmp_path: Path) -> None:
    """One that waits, one whose queue's process is gone, and one that another queue is at."""
    first, second, third = submitted(tmp_path, "seed=0,1,2", "trainer.steps=1000", "cluster.slots=1")
    until_step(first, 5)
    assert "cancelled 1 member of" in launch(tmp_path, "cancel", second.name).stdout
    assert "1 running, 1 queued, 1 cancelled" in launch(tmp_path, "status").stdout
    os.kill(server(tmp_path), signal.SIGKILL)
    assert "cancelled 1 member of" in launch(tmp_path, "cancel", f"mine/{first.name}").stdout
    until(lambda: status(first)["state"] == "preempted")
    assert "nothing to cancel: 2 cancelled, 1 missing" in launch(tmp_path, "cancel", "mine").stdout
    assert launch(tmp_path, "resume", "mine").returncode == 0
    until_step(first, status(first)["step"] + 5)
    os.kill(server(tmp_path, 2), signal.SIGKILL)
    assert launch(tmp_path, "resume", "mine").returncode == 0
    until_done(first, second, third, seconds=800)
    for run in (first, second, third):
        check_whole(run, 1000)
    assert {row["cause"] for row in attempts_of(first)} <= {"preempted"}


def test_two_queues_at_one_member(tmp_path: Path) -> None:
    """The second waits for what the first has started, and takes over when that is killed."""
    (run,) = submitted(tmp_path, "trainer.steps=400", "cluster.slots=2")
    until(lambda: trainings(tmp_path))
    os.kill(server(tmp_path), signal.SIGKILL)
    (orphan,) = trainings(tmp_path).values()
    if status(run).get("state") != "running":  # else nobody would start it once more
        assert launch(tmp_path, "resume", "mine").returncode == 0
    until_step(run, 25)
    lucky = psutil.Process(pid_of(run))
    queues = processes(tmp_path, "launch.queue.local_server")
    lucky.kill()
    if lucky == orphan and not queues:
        assert launch(tmp_path, "resume", "mine").returncode == 0
    until_done(run)
    check_whole(run, 400)
    assert {row["cause"] for row in attempts_of(run)} <= {"lost", "killed"}
