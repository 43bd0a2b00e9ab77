"""What SLURM, its site and the disk do to a sweep: nothing runs twice, nothing trains on unseen, and on it goes."""

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster import Cluster, lacking, wait_for
from disks import disk_at
from launching import (
    QUICK,
    attempts_of,
    check_whole,
    launch,
    status,
    steps_of,
    submitted,
    until,
    until_done,
    until_step,
)
from queue_processes import pid_of

pytestmark = [pytest.mark.fire, pytest.mark.cluster, pytest.mark.timeout(600)]
LONG = ("trainer.steps=3000", "cluster=slurm")
SHORT = ("trainer.steps=150", "cluster=slurm")


@pytest.fixture(scope="module")
def _cluster() -> Iterator[Cluster]:
    if reason := lacking():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:  # sockets: short paths
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def cluster(_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, idle, and mended afterwards."""
    monkeypatch.setenv("SLURM_CONF", str(_cluster.config))
    yield _cluster
    _cluster.clean()


def job_of(run: Path) -> str:
    """The number of the job that a run is in."""
    return json.loads((run / "lock.json").read_text())["job"]


def queue(cluster: Cluster) -> list[str]:
    """The jobs in the queue."""
    return cluster.output_of("squeue", "--noheader", "--array", "--format=%F").split()


def first_line(folder: Path) -> str:
    return launch(folder, "status", "mine").stdout.splitlines()[0].strip()


def ended(process: psutil.Process) -> bool:
    """Whether a process has ended; nobody may have waited for it yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def orphaned(run: Path, with_its_parent: bool) -> psutil.Process:
    """A run's training, after the daemon of its job is killed, and `with_its_parent` what had started it."""
    training = psutil.Process(pid_of(run))
    parents = training.parents()
    daemon = [each.name() for each in parents].index("slurmstepd")
    for each in reversed(parents[0 if with_its_parent else daemon : daemon + 1]):  # a shell would requeue its job
        each.kill()
    return training


@pytest.mark.parametrize("with_its_parent", [False, True])
def test_a_training_that_slurm_has_lost_is_cancelled(cluster: Cluster, tmp_path: Path, with_its_parent: bool) -> None:
    """SLURM says that the job is cancelled, and reaches nothing: the training reads it in its own directory."""
    (run,) = submitted(tmp_path, *LONG)
    until_step(run, 10)
    training = orphaned(run, with_its_parent)
    cancelled = launch(tmp_path, "cancel", "mine")
    assert ended(training), cancelled
    assert "cancelled 1 member of" in cancelled.stdout
    assert status(run)["state"] == "preempted"
    assert steps_of(run) == list(range(1, status(run)["step"] + 1))
    assert "1 cancelled" in first_line(tmp_path)


def test_who_cannot_be_reached_is_named(cluster: Cluster, tmp_path: Path) -> None:
    (run,) = submitted(tmp_path, *LONG)
    until_step(run, 10)
    training = orphaned(run, with_its_parent=True)
    training.suspend()
    cancelled = launch(tmp_path, "cancel", "mine")
    assert cancelled.returncode == 1
    assert "cancelled" not in cancelled.stdout
    assert re.search(rf"{run.name}: host n\d, process {training.pid}, job \d+ could not be reached", cancelled.stderr)
    training.resume()
    until(lambda: ended(training))
    assert status(run)["state"] == "preempted"


@pytest.mark.parametrize("how", ["requeue", "requeuehold"])
@pytest.mark.parametrize("orphan", [False, True])
def test_a_requeued_job_is_queued_and_nothing_goes_twice(
    cluster: Cluster, tmp_path: Path, how: str, orphan: bool
) -> None:
    (run,) = submitted(tmp_path, "trainer.steps=600", "cluster=slurm")
    until_step(run, 10)
    job = job_of(run)
    if orphan:
        orphaned(run, with_its_parent=False)
    cluster.output_of("scontrol", how, job)
    until(lambda: "PENDING" in cluster.output_of("squeue", "--noheader", "--format=%T"))
    until(lambda: orphan or "1 queued" in first_line(tmp_path))
    for _ in range(3):
        assert re.search("1 (queued|running)", first_line(tmp_path))
        assert "nothing to resume" in launch(tmp_path, "resume", "mine").stdout
        assert queue(cluster) == [job]
    if how == "requeuehold":
        cluster.output_of("scontrol", "release", job)
    until_done(run)
    check_whole(run, 600)


def test_jobs_held_suspended_and_requeued_after_their_end_are_in_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    held, suspended = submitted(tmp_path, "seed=0,1", *SHORT, "cluster.extra={hold: true}")
    job = queue(cluster)[0]
    assert "2 queued" in first_line(tmp_path)
    cluster.output_of("scontrol", "release", f"{job}_1")
    until_step(suspended, 5)
    cluster.output_of("scontrol", "suspend", f"{job}_1")
    assert "nothing to resume: 1 running, 1 queued" in launch(tmp_path, "resume", "mine").stdout
    cluster.output_of("scontrol", "resume", f"{job}_1")
    until_done(suspended)
    wait_for(lambda: len(queue(cluster)) == 1)
    cluster.output_of("scontrol", "requeue", f"{job}_1")
    assert "nothing to resume: 1 done, 1 queued" in launch(tmp_path, "resume", "mine").stdout
    cluster.output_of("scontrol", "release", f"{job}_0")
    until_done(held)
    for run in (held, suspended):
        check_whole(run, 150)


def test_a_killed_process_of_a_job_requeues_it(cluster: Cluster, tmp_path: Path) -> None:
    (run,) = submitted(tmp_path, *SHORT)
    until_step(run, 10)
    job = job_of(run)
    os.kill(psutil.Process(pid_of(run)).ppid(), signal.SIGKILL)
    until_done(run)
    check_whole(run, 150)
    assert [(row["cause"], row["job"]) for row in attempts_of(run)] == [("lost", job)]


@pytest.mark.parametrize("retries", [0, 1])
def test_what_slurm_does_not_requeue_goes_back_within_its_retries(
    cluster: Cluster, tmp_path: Path, retries: int
) -> None:
    """All processes of the job are killed at once, its shell first: for SLURM it has failed."""
    (run,) = submitted(tmp_path, *SHORT, f"cluster.retries.lost={retries}")
    until_step(run, 10)
    training = psutil.Process(pid_of(run))
    parents = training.parents()
    daemon = [each.name() for each in parents].index("slurmstepd")
    for each in [*reversed(parents[:daemon]), training]:
        each.kill()
    wait_for(lambda: not queue(cluster))
    waited = launch(tmp_path, "wait", "mine")
    assert waited.returncode == 1 - retries, waited
    if retries:
        check_whole(run, 150)
        assert [row["cause"] for row in attempts_of(run)] == ["lost"]
    else:
        assert "1 stale" in waited.stdout
        assert "its job: FAILED" in " ".join(waited.stdout.replace("│", " ").split())


ANSWERS = {
    "a warning before it": 'echo "sbatch: warning: 3 jobs of 100 left"; $sbatch "$@"',
    "a warning after it": '$sbatch "$@"; echo "4096 is the number of your project"',
    "warnings on stderr": '$sbatch "$@"; echo "warning: 12" >&2',
    "the cluster's name": '$sbatch "$@" | sed "s/$/;lab/"',
    "a sentence": 'echo "Submitted batch job $($sbatch "$@")"',
    "no number": '$sbatch "$@" > /dev/null; echo thank you',
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_site_whose_sbatch_says_more(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/bash\nsbatch={shutil.which('sbatch')}\n{ANSWERS[answer]}\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    submitted(tmp_path, *LONG, "cluster.extra={hold: true}")
    job = queue(cluster)[0]
    arrays = tmp_path / "runs" / "mine" / "launch" / "submissions" / "0001" / "arrays.json"
    assert [array["job"] for array in json.loads(arrays.read_text())] == [job]
    assert "1 queued" in first_line(tmp_path)
    assert "cancelled 1 member of" in launch(tmp_path, "cancel", "mine").stdout
    wait_for(lambda: not queue(cluster))


def test_damaged_arrays_hide_no_other_submission(cluster: Cluster, tmp_path: Path) -> None:
    submitted(tmp_path, *LONG, "cluster.extra={hold: true}")
    submitted(tmp_path, "seed=1", *LONG, "cluster.extra={hold: true}")
    arrays = tmp_path / "runs" / "mine" / "launch" / "submissions" / "0001" / "arrays.json"
    arrays.write_text("[{")
    looked = launch(tmp_path, "status", "mine")
    assert "2 queued" in looked.stdout
    assert [line for line in looked.stderr.splitlines() if line.startswith(f"damaged: {arrays}")]
    assert "Traceback" not in looked.stderr
    assert "nothing to resume" in launch(tmp_path, "resume", "mine").stdout
    assert "cancelled 2 members" in launch(tmp_path, "cancel", "mine").stdout
    wait_for(lambda: not queue(cluster))


@pytest.mark.parametrize("fault", ["fail", "turn_read_only"])
def test_a_disk_fails_for_a_while(cluster: Cluster, tmp_path: Path, fault: str) -> None:
    with disk_at(tmp_path / "runs", tmp_path / "image") as disk:
        (run,) = submitted(tmp_path, "trainer.steps=300", "cluster=slurm")
        until_step(run, 30)
        training = psutil.Process(pid_of(run))
        getattr(disk, fault)()
        until(lambda: ended(training))
        looked = launch(tmp_path, "status", "mine")
        assert "Traceback" not in looked.stderr
        if fault == "fail":
            assert "Input/output error" in looked.stdout + looked.stderr
        disk.mend()
        until_done(run)
        check_whole(run, 300)
        (row,) = attempts_of(run)
        assert (row["cause"], row["reason"][:24]) == ("lost", "its disk took no writes ")
        wait_for(lambda: not queue(cluster))


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_run_directory_disappears(cluster: Cluster, tmp_path: Path, how: str) -> None:
    gone, other = submitted(tmp_path, "seed=0,1", *SHORT)
    until_step(gone, 5)
    if how == "removed":
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        gone.rename(tmp_path / "elsewhere")
    until_done(other)
    check_whole(other, 150)
    wait_for(lambda: not queue(cluster))
    looked = launch(tmp_path, "status", "mine").stdout
    assert "1 done, 1 missing" in looked
    assert "its directory is gone" in " ".join(looked.replace("│", " ").split())
    printed = "".join(file.read_text() for file in tmp_path.glob("runs/mine/launch/submissions/*/job-*.txt"))
    assert "its directory is gone" in printed
    assert "Traceback" not in printed
    assert launch(tmp_path, "resume", "mine").returncode == 0
    until_done(gone)
    check_whole(gone, 150)


def test_slurm_forgets_everything(cluster: Cluster, tmp_path: Path) -> None:
    """The controller's state is wiped: what ran, and what waited, is put back by who waits for the sweep."""
    running, waiting = submitted(tmp_path, "seed=0,1", "trainer.steps=400", "cluster=slurm", "cluster.parallel=1")
    until_step(running, 10)
    cluster.kill("slurmctld")
    shutil.rmtree(cluster.folder / "state")
    (cluster.folder / "state").mkdir()
    cluster.start_controller()
    cluster.wait_until_idle()
    waited = launch(tmp_path, "wait", "mine")
    assert waited.returncode == 0, waited.stdout + waited.stderr
    for run in (running, waiting):
        check_whole(run, 400)


def test_without_slurmdbd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sacct answers nothing more; scontrol does."""
    if reason := lacking(accounting=True):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), accounting=True)
        monkeypatch.setenv("SLURM_CONF", str(cluster.config))
        try:
            cluster.start()
            (run,) = submitted(tmp_path, *SHORT)
            until_step(run, 5)
            cluster.kill("slurmdbd")
            cluster.kill("mariadbd")
            assert "1 running" in first_line(tmp_path)
            again = launch(tmp_path, "submit", *QUICK, "sweep_name=other", *SHORT, "cluster.extra={hold: true}")
            assert again.returncode == 0, again.stderr
            assert "cancelled 1 member of" in launch(tmp_path, "cancel", "other").stdout
            assert "1 missing" in launch(tmp_path, "status", "other").stdout
            assert launch(tmp_path, "wait", "mine").returncode == 0
            check_whole(run, 150)
        finally:
            cluster.stop()
