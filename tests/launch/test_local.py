"""Sweeps on this machine's slots as real processes, and what can happen to them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import (
    QUICK,
    ROOT,
    attempts_of,
    launch,
    run_directories,
    status,
    steps_of,
    submitted,
    until,
    until_done,
    until_step,
    variables,
    whole,
)
from pyarrow import parquet

pytestmark = pytest.mark.timeout(900)  # a dozen times what a quiet machine takes


EVALUATED = ("evaluation.tiles=2", "evaluation.train_pixels=60", "evaluation.knn_pixels=0", "evaluation.baselines=[]")


def pid_of(run: Path) -> int:
    """The process that trains a run."""
    return json.loads((run / "lock.json").read_text())["pid"]


def server(folder: Path, number: int = 1) -> int:
    """The process of a submission's queue."""
    return int((folder / "runs" / "mine" / "launch" / "submissions" / f"{number:04d}" / "queue.lock").read_text())


def test_a_sweep_from_plan_to_table(tmp_path: Path) -> None:
    words = (*QUICK, "sweep_name=mine", "upsampler=bilinear,learned", "trainer.steps=12", *EVALUATED)
    plan = launch(tmp_path, "plan", *words)
    assert plan.returncode == 0, plan.stderr
    assert "2 missing" in plan.stdout
    assert "Memory of a process at the peak of a step" in plan.stdout
    assert "2 members would be submitted" in launch(tmp_path, "submit", *words, "dry_run=true").stdout
    assert not (tmp_path / "runs").exists()
    assert launch(tmp_path, "submit", *words).returncode == 0
    bilinear, learned = runs = run_directories(tmp_path)
    waited = launch(tmp_path, "wait")
    assert waited.returncode == 0
    assert "2 done" in waited.stdout
    for run in runs:
        whole(run, 12)
    assert "step 12/12" in launch(tmp_path, "logs", bilinear.name[-10:]).stdout
    done = launch(tmp_path, "submit", *words)
    assert "nothing to submit: 2 done" in done.stdout
    assert launch(tmp_path, "collect", "mine").returncode == 0
    rows = parquet.read_table(tmp_path / "runs" / "mine" / "collected.parquet").to_pylist()
    assert [row["id"] for row in rows] == [bilinear.name, learned.name]
    assert [row["upsampler.name"] for row in rows] == ["bilinear", "learned"]
    assert all(row["step"] == 12 and row["score.probe_miou"] >= 0 for row in rows)
    assert (tmp_path / "runs" / "mine" / "collected.csv").read_text().count("\n") == 3
    reported = launch(tmp_path, "report", "mine", "pictures=0")
    assert reported.returncode == 0, reported.stderr
    report = json.loads((tmp_path / "runs" / "mine" / "report.json").read_text())
    assert len(report["members"]) == 2
    assert report["axes"]["declared"] == ["upsampler"]


def test_one_bad_member_and_nothing_is_submitted(tmp_path: Path) -> None:
    done = launch(tmp_path, "submit", *QUICK, "data.tile=16,12,20", "trainer.steps=5", "patch=hybrid")
    assert done.returncode == 2
    assert done.stderr.startswith("error: 2 of 3 members are bad, nothing is submitted:")
    assert "data.tile=12" in done.stderr
    assert "data.tile=20" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert launch(tmp_path, "submit", *QUICK, "model.encoder.width=65536").stderr.count("cannot run, nothing is") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_edit_after_the_submission_changes_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    trainer = copy / "hybrid_patch" / "train.py"
    trainer.write_text(trainer.read_text() + "\n# not committed\n")
    words = (*QUICK, "trainer.steps=5", "seed=0,1", "sweep_name=mine", "cluster.slots=1")
    refused = launch(tmp_path, "submit", *words, "cluster.dirty=refuse", PYTHONPATH=str(copy))
    assert refused.returncode == 2
    assert "uncommitted changes" in refused.stderr
    assert launch(tmp_path, "submit", *words, PYTHONPATH=str(copy)).returncode == 0
    trainer.write_text("raise SystemExit('edited')\n")
    runs = run_directories(tmp_path)
    until_done(*runs)
    for run in runs:
        whole(run, 5)
    (code,) = (tmp_path / "runs" / "mine" / "launch" / "code").iterdir()
    assert "+# not committed" in (code / "dirty.patch").read_text()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=copy, capture_output=True, text=True, check=True).stdout
    assert json.loads((runs[0] / "run.json").read_text())["commit"] == commit.strip()
    subprocess.run(["git", "checkout", "--quiet", "."], cwd=copy, check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, "commit", "--quiet", "--allow-empty", "-m", "later"], cwd=copy, check=True)
    again = launch(tmp_path, "submit", *words, PYTHONPATH=str(copy))
    assert "2 members were begun from another commit" in again.stdout
    assert "nothing to submit: 2 done" in again.stdout


def test_failures_are_told_apart_and_stop_no_other(tmp_path: Path) -> None:
    """A member that raises, one that is killed -9 once, one that is out of memory, one that cannot learn."""
    words = ("seed=0,1", "trainer.steps=200", "cluster.slots=2", "cluster.retries.error=0")
    found = launch(tmp_path, "submit", *QUICK, "sweep_name=mine", *words, "dry_run=true").stdout
    ids = [word for line in found.splitlines() for word in line.split() if word.startswith("hybrid8-1_")]
    broken = tmp_path / "runs" / "mine" / ids[0] / "checkpoints"
    broken.parent.mkdir(parents=True)
    broken.touch()  # no folder can be made there
    raises, killed = submitted(tmp_path, *words)
    until_step(killed, 25)
    os.kill(pid_of(killed), signal.SIGKILL)
    until_done(killed)
    whole(killed, 200)
    assert [row["cause"] for row in attempts_of(killed)] == ["killed"]
    until(lambda: status(raises).get("state") == "failed")
    said = launch(tmp_path, "status")
    assert said.returncode == 1
    assert "1 done, 1 failed" in said.stdout
    assert "1 × error at files.py" in said.stdout
    assert "again: python -m launch resume mine --failed-only" in said.stdout
    broken.unlink()
    assert launch(tmp_path, "resume", "mine", "--failed-only").returncode == 0
    until_done(raises)
    whole(raises, 200)


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


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (run,) = submitted(disk, "trainer.steps=400", TMPDIR=str(tmp_path))
        until_step(run, 25)
        subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filler'}", "bs=4096"], capture_output=True, check=False)
        until(lambda: status(run).get("state") == "failed" or attempts_of(run) or not (run / "lock.json").exists())
        (disk / "filler").unlink()
        until(lambda: attempts_of(run))
        assert attempts_of(run)[-1]["cause"] == "disk full"
        until(lambda: status(run)["state"] == "failed")
        assert launch(disk, "resume", "mine", TMPDIR=str(tmp_path)).returncode == 0
        until_done(run)
        whole(run, 400)
    finally:
        until(lambda: subprocess.run(["umount", disk], capture_output=True).returncode == 0)


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
    said = launch(tmp_path, "status").stdout
    assert "1 running, 1 missing" in said or "1 done, 1 missing" in said
    assert launch(tmp_path, "resume").returncode == 0
    until_done(first, second)
    for run in (first, second):
        whole(run, 200)
        assert attempts_of(run) == []


def test_cancel_saves_and_resume_goes_on(tmp_path: Path) -> None:
    runs = submitted(tmp_path, "seed=0,1", "trainer.steps=200", "cluster.slots=1")
    first = runs[0]
    until_step(first, 25)
    assert launch(tmp_path, "cancel", "mine").returncode == 0
    until(lambda: not Path(f"/proc/{server(tmp_path)}").exists())
    assert status(first)["state"] == "preempted"
    assert len(steps_of(first)) == status(first)["step"]
    assert "1 stopped, 1 missing" in launch(tmp_path, "status").stdout
    submissions = tmp_path / "runs" / "mine" / "launch" / "submissions"
    before = len(list(submissions.iterdir()))
    dry = launch(tmp_path, "resume", "mine", "dry_run=true")
    assert (dry.returncode, dry.stdout) == (0, f"dry_run: {len(runs)} members would be submitted again\n")
    assert len(list(submissions.iterdir())) == before
    assert launch(tmp_path, "resume", "mine").returncode == 0
    until_done(*runs)
    for run in runs:
        whole(run, 200)


@pytest.mark.slow  # a minute or two; the times are in docs/launch.md
def test_a_thousand_members(tmp_path: Path) -> None:
    done = launch(tmp_path, "submit", *QUICK, "sweep_name=mine", "seed=range(0,1000)", "trainer.steps=5")
    assert done.returncode == 0, done.stderr
    runs = run_directories(tmp_path)
    assert len(set(runs)) == 1000
    until_done(*runs[:3])
    said = launch(tmp_path, "status").stdout
    assert "queued" in said.splitlines()[0]
    assert len(said.splitlines()) < 60
    assert launch(tmp_path, "cancel", "mine").returncode == 0
    until(lambda: not Path(f"/proc/{server(tmp_path)}").exists())
    for run in runs[:3]:
        whole(run, 5)
