"""Sweeps on this machine's slots as real processes, from a command line to a table."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from launching import (
    QUICK,
    ROOT,
    attempts_of,
    check_whole,
    launch,
    run_directories,
    status,
    submitted,
    until,
    until_done,
    until_step,
    variables,
)
from pyarrow import parquet
from queue_processes import server, trainings

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]  # a dozen times what a quiet machine takes

EVALUATED = ("evaluation.tiles=2", "evaluation.train_pixels=60", "evaluation.knn_pixels=0", "evaluation.baselines=[]")


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
        check_whole(run, 12)
    assert "step 12/12" in launch(tmp_path, "logs", bilinear.name[-10:]).stdout
    done = launch(tmp_path, "submit", *words)
    assert "nothing to submit: 2 done" in done.stdout
    table = tmp_path / "runs" / "mine" / "collected"
    for suffix in (".parquet", ".csv"):
        collected = launch(tmp_path, "report", "mine", f"table={table.with_suffix(suffix)}")
        assert collected.returncode == 0, collected.stderr
    rows = parquet.read_table(table.with_suffix(".parquet")).to_pylist()
    assert [row["id"] for row in rows] == [bilinear.name, learned.name]
    assert [row["upsampler.name"] for row in rows] == ["bilinear", "learned"]
    assert all(row["step"] == 12 and row["score.probe_miou"] >= 0 for row in rows)
    assert table.with_suffix(".csv").read_text().count("\n") == 3
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
    assert launch(tmp_path, "submit", *QUICK, "model.encoder.width=65536").stderr.count(": a process needs ") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_edit_after_the_submission_changes_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    trainer = copy / "hybrid_patch" / "train" / "__main__.py"
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
        check_whole(run, 5)
    (code,) = (tmp_path / "runs" / "mine" / "launch" / "code").iterdir()
    assert "+# not committed" in (code / "dirty.patch").read_text()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=copy, capture_output=True, text=True, check=True).stdout
    assert json.loads((runs[0] / "run.json").read_text())["commit"] == commit.strip()
    subprocess.run(["git", "checkout", "--quiet", "."], cwd=copy, check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, "commit", "--quiet", "--allow-empty", "-m", "later"], cwd=copy, check=True)
    again = launch(tmp_path, "submit", *words, PYTHONPATH=str(copy))
    assert "2 members begun from another commit" in again.stdout
    assert "nothing to submit: 2 done" in again.stdout


def test_a_sweep_may_have_more_members_than_a_process_may_have_files(tmp_path: Path) -> None:
    few = ["bash", "-c", 'ulimit -n 100; exec "$@"', "few", sys.executable, "-m", "launch", "submit", *QUICK]
    words = ["sweep_name=mine", "seed=range(0,120)", "trainer.steps=5"]
    done = subprocess.run(
        [*few, *words], cwd=tmp_path, env=variables(tmp_path, {}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert launch(tmp_path, "cancel", "mine").returncode == 0


def test_commands_that_come_too_early_or_from_elsewhere(tmp_path: Path) -> None:
    """No submission yet, a member of two sweeps, a member that nobody has begun, and `resume` in another folder."""
    tiles = tmp_path / "a, [b]"
    tiles.mkdir()
    manifest = tmp_path / "runs" / "torn" / "launch" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"members": []}')
    assert "no members" in launch(tmp_path, "status").stdout
    early = launch(tmp_path, "resume", "torn")
    assert (early.returncode, early.stderr) == (2, "error: torn: was never handed to a queue; submit it again\n")
    for name in ("mine", "other"):
        done = launch(tmp_path, "submit", *QUICK, f"sweep_name={name}", "trainer.steps=9000", "cluster.slots=1")
        assert done.returncode == 0, done.stderr
    (run,) = run_directories(tmp_path)
    assert "mine/" in launch(tmp_path, "logs", run.name).stderr
    until_step(run, 5)
    assert launch(tmp_path, "cancel", f"other/{run.name}").returncode == 0
    assert launch(tmp_path, "cancel", f"mine/{run.name}").returncode == 0
    until(lambda: not trainings(tmp_path))
    silent = launch(tmp_path, "logs", "-f", f"other/{run.name}")
    assert (silent.returncode, silent.stderr) == (2, f"error: {run.name}: has not printed anything yet\n")
    assert launch(tiles, "resume", "../runs/mine").returncode == 0
    submission = json.loads((manifest.parents[2] / "mine/launch/submissions/0002/submission.json").read_text())
    assert submission["cwd"] == str(tmp_path)
    assert launch(tmp_path, "cancel", "mine").returncode == 0
    until(lambda: not Path(f"/proc/{server(tmp_path, 2)}").exists())


@pytest.mark.slow  # an hour of two cores; the times are in docs/launch.md
@pytest.mark.timeout(4 * 3600)
def test_a_thousand_members(tmp_path: Path) -> None:
    """To the end, whatever happens meanwhile: trainings are killed, the queue is, and the sweep is cancelled."""
    words = ("seed=range(0,1000)", "trainer.steps=5", f"cluster.slots={len(os.sched_getaffinity(0))}")
    runs = submitted(tmp_path, *words)
    assert len(set(runs)) == 1000
    until_done(*runs[:3])
    printed = launch(tmp_path, "status").stdout
    assert "queued" in printed.splitlines()[0]
    assert len(printed.splitlines()) < 60
    assert "nothing to submit" in launch(tmp_path, "submit", *QUICK, "sweep_name=mine", *words).stdout

    def done() -> int:
        return sum(status(run).get("state") == "done" for run in runs)

    def until_done_count(count: int) -> set[str]:
        """Kill a training every now and then until `count` runs are done; returns the ids of those killed."""
        killed: set[str] = set()
        while done() < count:
            time.sleep(20)
            for name, process in trainings(tmp_path).items():
                if name not in killed:
                    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                        process.kill()
                    killed.add(name)
                    break
        return killed

    killed = until_done_count(300)
    os.kill(server(tmp_path), signal.SIGKILL)
    assert launch(tmp_path, "resume", "mine").returncode == 0
    killed |= until_done_count(600)
    assert launch(tmp_path, "cancel", "mine").returncode == 0
    until(lambda: not Path(f"/proc/{server(tmp_path, 2)}").exists())
    assert "running" not in launch(tmp_path, "status").stdout.splitlines()[0]
    before = done()
    assert launch(tmp_path, "resume", "mine").returncode == 0
    until(lambda: done() > before)
    until_done(*runs, seconds=2 * 3600)
    for run in runs:
        check_whole(run, 5)
        causes = {row["cause"] for row in attempts_of(run)}
        assert causes <= {"killed", "lost", "preempted"}
        assert "killed" not in causes or run.name in killed
    assert "1000 done" in launch(tmp_path, "status").stdout.splitlines()[0]
    assert launch(tmp_path, "report", "mine", f"table={tmp_path / 'collected.parquet'}").returncode == 0
    rows = parquet.read_table(tmp_path / "collected.parquet").to_pylist()
    assert [row["seed"] for row in rows] == list(range(1000))
    assert all(row["step"] == 5 for row in rows)
