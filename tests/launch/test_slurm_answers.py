"""What SLURM 22.05 answered on a real cluster (tests/helpers/cluster.py), read without one: three jobs of an array."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_patch.runs.atomic_files import write_json
from launch.config import Slurm, read_cluster
from launch.queue.slurm import ARRAYS, ENDS, FORGOTTEN, SlurmQueue, _array_limit, _job_number
from launch.submit import next_submission
from launch.sweep import Submission, Sweep, SweepMember, write_submission

MEMBER = SweepMember(id="a", arguments=("seed=0",), nodes=1, processes=1, workers=0, cuda=False, memory=None)
SQUEUE = """other|2|N/A|PENDING
NAME|1|2|RUNNING
NAME|1|1|PENDING
NAME|1|0|COMPLETED
"""
SACCT = """1_0|NAME|FAILED
1_1|NAME|CANCELLED by 0
1_2|NAME|RUNNING
"""
SCONTROL = """JobId=1 ArrayJobId=1 ArrayTaskId=2 ArrayTaskThrottle=2 JobName=NAME QOS=normal JobState=RUNNING
JobId=4 ArrayJobId=1 ArrayTaskId=1 ArrayTaskThrottle=2 JobName=NAME QOS=normal JobState=CANCELLED
JobId=3 ArrayJobId=1 ArrayTaskId=0 ArrayTaskThrottle=2 JobName=NAME QOS=normal JobState=FAILED Requeue=1
"""
CONFIG = """Configuration data as of 2026-11-28T10:00:53
MaxArraySize            = 1001
NEXT_JOB_ID             = {next}
"""


class Answers:
    """Commands of SLURM that print what is in a file, and fail where there is none."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def give(self, command: str, text: str) -> None:
        (self.folder / f"{command}.txt").write_text(text.replace("NAME", self.name))

    def make(self, *commands: str) -> None:
        for command in commands:
            file = self.folder / command
            file.write_text('#!/bin/sh\ncase "$*" in *config*) exec cat "$0-config.txt";; esac\nexec cat "$0.txt"\n')
            file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    sweep = Sweep(tmp_path / "mine")
    members = [replace(MEMBER, id=each) for each in "abc"]
    sweep.add(members)
    made = next_submission(sweep, members, tmp_path, read_cluster(["cluster=slurm"]), str(tmp_path))
    write_submission(made)
    write_json(made.folder / ARRAYS, [{"name": f"{made.name}-0", "groups": [["a"], ["b"], ["c"]], "job": "1"}])
    return made


@pytest.fixture
def answers(submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    ENDS.clear()  # of jobs of other tests, by numbers of a cluster
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    answers = Answers(tmp_path / "bin", f"{submission.name}-0")
    answers.make("squeue", "sacct", "scontrol")
    answers.give("squeue", SQUEUE)
    answers.give("scontrol-config", CONFIG.format(next=5))
    return answers


def queue_of(submission: Submission) -> SlurmQueue:
    assert isinstance(submission.cluster, Slurm)
    return SlurmQueue(submission.cluster)


def test_jobs_that_wait_and_run(submission: Submission, answers: Answers) -> None:
    assert queue_of(submission).live([submission]) == {"b": "waiting", "c": "running"}
    answers.give("squeue", "")
    assert queue_of(submission).live([submission]) == {}


@pytest.mark.parametrize(
    ("command", "text", "ends"),
    [
        ("sacct", SACCT, {"a": "FAILED", "b": "CANCELLED by 0", "c": "RUNNING"}),
        ("scontrol", SCONTROL, {"a": "FAILED", "b": "CANCELLED", "c": "RUNNING"}),
        ("sacct", SACCT.replace(" by 0", ""), {"a": "FAILED", "c": "RUNNING"}),  # the controller has lost its state
    ],
)
def test_how_jobs_ended(
    submission: Submission, answers: Answers, command: str, text: str, ends: dict[str, str]
) -> None:
    answers.give(command, text)
    assert queue_of(submission).verdicts(submission, "abc") == ends


def test_a_job_that_has_ended_is_not_asked_for_again(submission: Submission, answers: Answers) -> None:
    answers.give("sacct", SACCT)
    queue_of(submission).verdicts(submission, "abc")
    answers.give("sacct", "")
    assert queue_of(submission).verdicts(submission, "ab") == {"a": "FAILED", "b": "CANCELLED by 0"}
    assert queue_of(submission).verdicts(submission, "c") == {}  # it was running


def test_a_controller_that_gives_a_number_away_again_has_forgotten_the_job(
    submission: Submission, answers: Answers
) -> None:
    answers.give("scontrol-config", CONFIG.format(next=1))
    assert queue_of(submission).verdicts(submission, "abc") == dict.fromkeys("abc", FORGOTTEN)


def test_the_largest_array(answers: Answers) -> None:
    assert _array_limit() == 1001


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("1\n", "1"),
        ("Submitted batch job 2\n", "2"),
        ("3;lab\n", "3"),
        ("Welcome!\n4\nquota: 5 of 6\n", "4"),
        ("?", "7"),
    ],
)
def test_the_number_of_a_job(answers: Answers, answer: str, number: str) -> None:
    answers.give("squeue", "number 7\n")
    assert _job_number(answer, "mine") == number
