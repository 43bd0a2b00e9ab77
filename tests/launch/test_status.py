"""The status of a member whose queue and files disagree."""

import fcntl
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_patch.runs.atomic_files import append_line, write_json
from hybrid_patch.runs.directory import RunDirectory
from launch.config import Local, read_cluster
from launch.queue.interface import Live
from launch.queue.local import LocalQueue, server_pid
from launch.status import counts, member_status, member_statuses
from launch.status_table import Evaluations, overview, show
from launch.submit import next_submission
from launch.sweep import Submission, Sweep, SweepMember, write_submission

MEMBER = SweepMember(id="a", arguments=("seed=0",), nodes=1, processes=1, workers=0, cuda=False, memory=None)


@pytest.mark.parametrize(("live", "resubmittable"), [("running", False), (None, True)])
def test_a_dead_machine_is_named_and_its_member_not_submitted_twice(
    tmp_path: Path, live: Live | None, resubmittable: bool
) -> None:
    status = {"state": "running", "reason": "", "heartbeat": 0.0, "attempt": 1, "step": 5, "host": "n1", "pid": 1}
    write_json(tmp_path / "status.json", status)
    member = member_status(RunDirectory(tmp_path), MEMBER, live)
    assert (member.state, member.resubmittable) == ("stale", resubmittable)
    assert ("its queue still has it" in member.reason) is not resubmittable


def test_a_run_that_evaluates_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory(tmp_path)
    run.lock()
    run.set_status("running", "evaluating", step=5, steps=5)
    show(overview("mine", [member_status(run, MEMBER, "running")]))
    assert "running: evaluating" in capsys.readouterr().out
    ends = time.time() + 3600
    run.set_status("running", "evaluating", step=5, evaluated=12, evaluation_work=80, evaluation_ends=ends)
    evaluating = member_status(run, MEMBER, "running")
    show(overview("mine", [evaluating]))
    printed = capsys.readouterr().out
    assert "running: evaluating 12/80" in printed
    assert " 60 min " in printed
    lines = Evaluations()
    assert lines.lines([evaluating]) == {"a": "evaluating 12/80, 60 min left"}
    assert lines.lines([evaluating]) == {}  # a moment ago
    run.set_status("running", step=5)
    after = member_status(run, MEMBER, "running")
    assert (after.reason, after.evaluating, lines.lines([after])) == ("", False, {})


def test_a_cancelled_member_is_cancelled_until_it_is_submitted_again(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "mine")
    members = [replace(MEMBER, id=each) for each in ("begun", "waiting", "done", "other")]
    sweep.add(members)
    for each, state in (("begun", "preempted"), ("done", "done"), ("other", "preempted")):
        run = sweep.run(each)
        run.path.mkdir()
        run.set_status(state, step=3)
    sweep.run("waiting").path.mkdir()
    cluster = read_cluster([])
    first = next_submission(sweep, members, tmp_path, cluster, str(tmp_path))
    write_submission(first)
    for each in ("begun", "waiting", "done"):
        first.mark("cancelled", each)
    statuses = member_statuses(sweep)
    assert [each.state for each in statuses] == ["cancelled", "cancelled", "done", "stopped"]
    assert [each.resubmittable for each in statuses] == [True, True, False, True]
    assert counts(statuses) == "1 done, 1 stopped, 2 cancelled"
    write_submission(next_submission(sweep, members[:1], tmp_path, cluster, str(tmp_path)))
    assert [each.state for each in member_statuses(sweep)][:2] == ["stopped", "cancelled"]


def test_slurm_is_asked_only_about_what_nothing_else_explains_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One search trial is pruned, one was cancelled and has been resumed, one is cancelled at the site."""
    sweep = Sweep(tmp_path / "mine")
    members = [replace(MEMBER, id=each) for each in ("pruned", "resumed", "scancelled")]
    sweep.add(members)
    cluster = read_cluster(["cluster=slurm"])
    asked, jobs = tmp_path / "asked", ["pruned", "resumed", "scancelled", "resumed"]
    for i, name in enumerate(jobs):
        sweep.run(name).path.mkdir(exist_ok=True)
        sweep.run(name).set_status("preempted", step=3)
        of_job = [member for member in members if member.id == name]
        write_submission(submission := next_submission(sweep, of_job, tmp_path, cluster, str(tmp_path)))
        write_json(submission.folder / "arrays.json", [{"name": f"a-{i}", "groups": [[name]], "job": str(i)}])
        if name == "pruned":
            submission.mark("cancelled", name)
    answers = {"squeue": "", "sacct": f"echo $5 >> {asked}; [ $5 = 3 ] && s=COMPLETED || s='CANCELLED by 0'\n"}
    answers["sacct"] += 'echo "$5_0|a-$5|$s"'.replace("$5", "${5}")
    for command, answer in answers.items():
        (tmp_path / command).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for _ in range(2):
        assert [each.state for each in member_statuses(sweep)] == ["cancelled", "stopped", "cancelled"]
    assert sorted(asked.read_text().split()) == ["2", "3"]


def test_a_queue_whose_process_is_not_known_yet_is_alive(tmp_path: Path) -> None:
    """Its process holds the lock from the first moment, and its number is written a moment later."""
    cluster = read_cluster([])
    assert isinstance(cluster, Local)
    submission = Submission(
        folder=tmp_path,
        number=1,
        cluster=cluster,
        code="",
        cwd=str(tmp_path),
        members=(MEMBER, replace(MEMBER, id="b")),
        name="x",
    )
    submission.mark("ended", "b")
    assert LocalQueue(cluster).live([submission]) == {}
    with (tmp_path / "queue.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert LocalQueue(cluster).live([submission]) == {"a": "waiting"}
        assert server_pid(submission) is None
        lock.write(f"{os.getpid()} {socket.gethostname()}")
        lock.flush()
        assert server_pid(submission) == os.getpid()
        for pid in (b"-1", b"0", b"1", b"+7", b"x", b"\xff\0", b""):
            (tmp_path / "queue.lock").write_bytes(pid + f" {socket.gethostname()}".encode())
            assert server_pid(submission) is None
    assert LocalQueue(cluster).live([submission]) == {}


def test_a_torn_line_stays_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    with path.open("a") as file:
        file.write("tor")
    append_line(path, "two")
    assert path.read_text() == "one\ntor\ntwo\n"
