"""Sweeps on a real SLURM cluster, and what can happen to them there.

After each: every member is done once, its metrics have every step exactly once, and nothing is half-written.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster import Cluster, lacking, wait_for
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

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]  # a dozen times what a quiet machine takes
STEPS = 300
LONG = (f"trainer.steps={STEPS}", "cluster=slurm")


def _running(accounting: bool) -> Iterator[Cluster]:
    if reason := lacking(accounting):
        pytest.skip(reason)
    # Sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), accounting, array_limit=2)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    yield from _running(accounting=False)


@pytest.fixture
def cluster(_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, idle, and mended afterwards."""
    monkeypatch.setenv("SLURM_CONF", str(_cluster.config))
    yield _cluster
    _cluster.clean()


@pytest.fixture
def accounted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster with sacct."""
    for cluster in _running(accounting=True):
        monkeypatch.setenv("SLURM_CONF", str(cluster.config))
        yield cluster


def training(run: Path) -> int:
    """The process that trains a run."""
    return json.loads((run / "lock.json").read_text())["pid"]


def training_or(run: Path, other: int) -> int:
    """The process that trains a run; another where nobody does."""
    try:
        return training(run)
    except FileNotFoundError:
        return other


def pause(pid: int) -> None:
    """Stop a process, but not in the middle of a write."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        if f" {pid} " not in Path("/proc/locks").read_text():
            return
        os.kill(pid, signal.SIGCONT)


def job_of(cluster: Cluster, run: Path) -> str:
    """The number of the job that a run is in."""
    return json.loads((run / "lock.json").read_text())["job"]


def restarts(cluster: Cluster, job: str) -> int:
    match = re.search(r"Restarts=(\d+)", cluster.output_of("scontrol", "show", "job", "-o", job))
    assert match
    return int(match[1])


def test_a_sweep_to_the_end_in_an_array_with_a_limit_and_packed(cluster: Cluster, tmp_path: Path) -> None:
    runs = submitted(
        tmp_path, "seed=0,1,2", "trainer.steps=30", "cluster=slurm", "cluster.parallel=1", "cluster.pack=2"
    )
    assert "%1" in cluster.output_of("squeue", "--noheader", "--format=%i") or len(steps_of(runs[2])) == 0
    max_running = 0

    def all_done() -> bool:
        nonlocal max_running
        running = cluster.output_of("squeue", "--noheader", "--states=running", "--format=%i").split()
        max_running = max(max_running, len(running))
        return all(status(run).get("state") == "done" for run in runs)

    until(all_done, 200)
    assert max_running == 1
    for run in runs:
        check_whole(run, 30)
    waited = launch(tmp_path, "wait")
    assert waited.returncode == 0
    assert "3 done" in waited.stdout
    again = launch(tmp_path, "submit", *QUICK, "sweep_name=mine", "seed=0,1,2", "trainer.steps=30", "cluster=slurm")
    assert "nothing to submit: 3 done" in again.stdout


def test_requeued_killed_and_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    requeued, killed, cancelled = runs = submitted(tmp_path, "seed=0,1,2", *LONG)
    arrays = {name.partition("_")[0] for name in cluster.output_of("squeue", "--noheader", "--format=%i").split()}
    assert len(arrays) == 2  # the site takes arrays of two jobs
    for run in runs:
        until_step(run, 25)
    cluster.output_of("scontrol", "requeue", job_of(cluster, requeued))
    os.kill(training(killed), signal.SIGKILL)
    assert launch(tmp_path, "cancel", cancelled.name).returncode == 0
    until(lambda: status(cancelled)["state"] == "preempted")
    saved = status(cancelled)["step"]
    assert steps_of(cancelled) == list(range(1, saved + 1))
    assert status(cancelled)["reason"].endswith(f"after step {saved}, saved")
    until_done(killed, requeued)
    assert [row["cause"] for row in attempts_of(killed)] == ["killed"]
    assert "1 cancelled" in launch(tmp_path, "status").stdout
    assert launch(tmp_path, "resume", "mine").returncode == 0
    until_done(cancelled)
    for run in runs:
        check_whole(run, STEPS)


def test_preempted_by_a_higher_partition(cluster: Cluster, tmp_path: Path) -> None:
    (run,) = submitted(tmp_path, *LONG, "cluster.partition=low")
    until_step(run, 25)
    job = job_of(cluster, run)
    cluster.output_of("sbatch", "--partition=high", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    until(lambda: status(run)["state"] == "preempted")
    saved = status(run)["step"]
    assert saved >= 25
    until_done(run)
    check_whole(run, STEPS)
    assert restarts(cluster, job) >= 1
    assert attempts_of(run)[0]["cause"] == "preempted"
    assert f"going on after step {saved}" in (run / "log.txt").read_text()


def test_preempted_before_anything_of_ours_runs(cluster: Cluster, tmp_path: Path) -> None:
    """In the lines of a site's set-up the signal reaches the shell."""
    (run,) = submitted(
        tmp_path, "trainer.steps=30", "cluster=slurm", "cluster.partition=low", "cluster.setup=[sleep 9]"
    )
    until(lambda: "RUNNING" in cluster.output_of("squeue", "--noheader", "--format=%T"))
    job = cluster.output_of("squeue", "--noheader", "--format=%A")
    cluster.output_of("sbatch", "--partition=high", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    until_done(run)
    check_whole(run, 30)
    assert restarts(cluster, job) >= 1


def test_one_of_a_pack_is_cancelled_and_taken_again(cluster: Cluster, tmp_path: Path) -> None:
    cancelled, other = submitted(tmp_path, "seed=0,1", *LONG, "cluster.pack=2")
    for run in (cancelled, other):
        until_step(run, 5)
    assert launch(tmp_path, "cancel", cancelled.name).returncode == 0
    until(lambda: status(cancelled)["state"] == "preempted")
    assert "1 cancelled" in launch(tmp_path, "status").stdout.splitlines()[0]
    assert "submitted 1 member of" in launch(tmp_path, "resume", "mine").stdout
    until_done(cancelled, other)
    for run in (cancelled, other):
        check_whole(run, STEPS)


def test_the_variables_of_a_job_around_change_nothing_and_reach_no_job(cluster: Cluster, tmp_path: Path) -> None:
    outer = {"SBATCH_PARTITION": "high", "SBATCH_HOLD": "1", "SLURM_HINT": "nomultithread", "SLURM_JOB_NUM_NODES": "3"}
    words = ("trainer.steps=30", "cluster=slurm", f"cluster.setup=['env > {tmp_path}/environment.txt']")
    (run,) = submitted(tmp_path, *words, "cluster.partition=low", **outer)
    until_done(run)
    check_whole(run, 30)
    job = set((tmp_path / "environment.txt").read_text().splitlines())
    assert job >= {"SLURM_JOB_PARTITION=low", "SLURM_JOB_NUM_NODES=1", f"SLURM_CONF={cluster.config}"}
    assert not [line for line in job if line.startswith(("SBATCH_", "SLURM_HINT="))]


def test_what_waits_is_left_as_it_was_submitted(cluster: Cluster, tmp_path: Path) -> None:
    """A later submission of the same member changes nothing of it, and a person's own view of the queue hides none."""
    two = ("cluster=slurm", "cluster.nodes=2", "runtime=ddp", "runtime.processes=1", "runtime.device=cpu")
    submitted(tmp_path, "trainer.steps=30", *two, "cluster.extra={hold: true}")
    words = (*QUICK, "sweep_name=mine", "trainer.steps=30", "cluster=slurm", "seed=0,1", "cluster.extra={hold: true}")
    assert launch(tmp_path, "submit", *words).returncode == 0
    members = json.loads((tmp_path / "runs" / "mine" / "launch" / "manifest.json").read_text())["members"]
    assert [member["nodes"] for member in members] == [2, 1]
    assert "2 queued" in launch(tmp_path, "status", SQUEUE_STATES="failed").stdout
    assert "cancelled 2 members" in launch(tmp_path, "cancel", "mine").stdout
    assert "mine: 2 cancelled" in launch(tmp_path, "status").stdout


@pytest.mark.slow  # minutes: no limit is shorter, and the run must be longer than a job can be
@pytest.mark.timeout(2000)
def test_the_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    """SLURM counts in minutes, and may ask up to a minute early."""
    (run,) = submitted(
        tmp_path, "trainer.steps=9000", "cluster=slurm", "cluster.time=1", "cluster.signal_seconds=35", "seed=3"
    )
    until(lambda: attempts_of(run))
    assert attempts_of(run)[0]["cause"] == "preempted"
    job = attempts_of(run)[0]["job"]
    until(lambda: "PENDING" in cluster.output_of("squeue", "--noheader", "--format=%T", f"--jobs={job}", check=False))
    cluster.output_of("scontrol", "update", f"jobid={job}", "TimeLimit=10", check=False)
    until_done(run, seconds=1700)
    check_whole(run, 9000)
    assert restarts(cluster, job) >= 1


def test_a_node_goes_down_and_leaves_an_orphan(cluster: Cluster, tmp_path: Path) -> None:
    """slurmd and the job's own daemon are killed; the training lives on, unseen, while its twin takes the run over."""
    (run,) = submitted(tmp_path, *LONG)
    until_step(run, 25)
    job, orphan = job_of(cluster, run), training(run)
    node = cluster.output_of("squeue", "--noheader", "--format=%N", f"--jobs={job}")
    parents = psutil.Process(orphan).parents()
    step_daemon = next(each for each in parents if each.name() == "slurmstepd")
    shell = parents[parents.index(step_daemon) - 1]
    step_daemon.kill()
    cluster.kill(node)
    # The kernel hangs up on a stopped process whose daemon ends: it may be stopped only when the last thread of that
    # has ended, and what it had started has another parent.
    until(lambda: shell.ppid() != step_daemon.pid)
    pause(orphan)  # or it would be done before SLURM has noticed
    # The lock is nobody's for a moment, between what starts the twin and the twin.
    until(lambda: training_or(run, orphan) != orphan)
    os.kill(orphan, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{orphan}").exists())
    assert "this attempt has lost the run" in (run / "output.txt").read_text()
    until_done(run)
    check_whole(run, STEPS)
    assert restarts(cluster, job) == 1
    assert cluster.output_of("sinfo", "-h", "-n", node, "-p", "low", "-o", "%T").startswith("down")


def test_the_controller_is_restarted_and_is_away_at_a_submission(cluster: Cluster, tmp_path: Path) -> None:
    (run,) = submitted(tmp_path, "trainer.steps=900", "cluster=slurm")
    until_step(run, 25)
    cluster.stop_controller()
    assert "1 running" in launch(tmp_path, "status", "mine").stdout
    refused = launch(tmp_path, "submit", *QUICK, "sweep_name=other", "cluster=slurm", "seed=0,1", "trainer.steps=20")
    assert refused.returncode == 2
    assert "nothing was submitted" in refused.stderr
    assert "Traceback" not in refused.stderr
    cluster.start_controller()
    words = (*QUICK, "sweep_name=other", "cluster=slurm", "seed=0,1", "trainer.steps=20")
    assert launch(tmp_path, "submit", *words).returncode == 0
    assert launch(tmp_path, "wait", "other").returncode == 0
    for each in (tmp_path / "runs" / "other").glob("*_s*"):
        check_whole(each, 20)
    until_done(run)
    check_whole(run, 900)
    assert attempts_of(run) == []


def test_the_submitting_process_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    words = [*QUICK, "sweep_name=mine", "seed=0,1", "trainer.steps=150", "cluster=slurm"]
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", "submit", *words],
        cwd=tmp_path,
        env=variables(tmp_path, {}),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: cluster.output_of("squeue", "--noheader"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    runs = run_directories(tmp_path)
    again = launch(tmp_path, "submit", *words)
    assert "nothing to submit" in again.stdout, again.stdout + again.stderr
    until_done(*runs)
    for run in runs:
        check_whole(run, 150)


def test_two_machines_train_one_member(cluster: Cluster, tmp_path: Path) -> None:
    """Their names resolve nowhere: the address is SLURM's own."""
    (run,) = submitted(tmp_path, *LONG, "cluster.nodes=2", "runtime=ddp", "runtime.processes=1", "runtime.device=cpu")
    until_step(run, 25)
    assert len(cluster.output_of("squeue", "--noheader", "--format=%N").split(",")) >= 1
    assert cluster.output_of("squeue", "--noheader", "--format=%D") == "2"
    cluster.output_of("scancel", "--signal=USR2", "--batch", job_of(cluster, run))
    until(lambda: attempts_of(run))
    assert attempts_of(run)[0]["cause"] == "preempted"
    until_done(run)
    check_whole(run, STEPS)


def test_with_sacct(accounted: Cluster, tmp_path: Path) -> None:
    (run,) = submitted(tmp_path, *LONG)
    until_step(run, 25)
    job = job_of(accounted, run)
    os.kill(training(run), signal.SIGKILL)
    until_done(run)
    check_whole(run, STEPS)
    wait_for(lambda: "COMPLETED" in accounted.output_of("sacct", "-n", "-X", "-j", job, "-o", "State"))
