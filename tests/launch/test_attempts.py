"""What the end of a training makes of its member, with a stub in the training's place that ends as it is told.

The same with real trainings is in test_local_faults.py and test_slurm.py.
"""

import stat
import sys
from pathlib import Path

import pytest

from hybrid_patch.runs.directory import RunDirectory
from launch.config import read_cluster
from launch.queue.attempts import Attempts, ended_attempts
from launch.queue.process import QueueProcess
from launch.submit import next_submission
from launch.sweep import Sweep, SweepMember, write_submission

MEMBER = SweepMember(id="a", arguments=("seed=0",), nodes=1, processes=1, workers=0, cuda=False, memory=None)
STUB = f"""#!{sys.executable}
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from hybrid_patch.runs.directory import RunDirectory
run = RunDirectory(Path(sys.argv[-1]))
ends = run.path / "ends"
how, *rest = ends.read_text().split(",")
ends.write_text(",".join(rest))
run.lock()
run.set_status("running", step=3)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "done":
    run.set_status("done", step=9)
if how == "preempted":
    run.set_status("preempted", "by SIGTERM", step=5)
if how == "failed":
    run.set_status("failed", "the loss is not finite", cause="not finite", frame="train/step.py:7")
run.unlock()
print("error: data.root=x: there is no such folder", file=sys.stderr)
sys.exit({{"done": 0, "preempted": 75, "bad input": 2, "lost": 76}}.get(how, 1))
"""


def attempts(folder: Path, ends: str, *words: str) -> tuple[Attempts, RunDirectory]:
    """The attempts at a member whose trainings end so, one after the other."""
    sweep = Sweep(folder / "mine")
    sweep.add([MEMBER])
    submission = next_submission(sweep, [MEMBER], folder, read_cluster(list(words)), str(folder))
    write_submission(submission)
    run = sweep.run("a")
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "ends").write_text(ends)
    stub = folder / "training"
    stub.write_text(STUB)
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    return Attempts(QueueProcess(submission.folder), "a", {}, python=str(stub)), run


@pytest.mark.parametrize(
    ("ends", "words", "outcome", "causes"),
    [
        ("done", (), ("done", ""), []),
        ("killed,done", (), ("done", ""), ["killed"]),
        ("killed,error,killed,done", (), ("done", ""), ["killed", "error", "killed"]),
        ("error,done", ("cluster.retries.error=0",), ("failed", "error"), ["error"]),
        ("killed,killed,done", ("cluster.retries.killed=1",), ("failed", "killed"), ["killed", "killed"]),
        ("preempted,done", (), ("done", ""), ["preempted"]),
        ("failed,done", (), ("failed", "not finite"), ["not finite"]),
        ("bad input,done", (), ("failed", "bad input"), ["bad input"]),
        ("lost,done", (), ("elsewhere", ""), []),
    ],
)
def test_how_it_ends(
    tmp_path: Path, ends: str, words: tuple[str, ...], outcome: tuple[str, str], causes: list[str]
) -> None:
    each, run = attempts(tmp_path, ends, *words)
    ended = each.make()
    assert (ended.state, ended.cause) == outcome, ended
    assert [row.cause for row in ended_attempts(run)] == causes
    assert not run.alive()


def test_a_member_that_is_done_or_cancelled_is_not_started(tmp_path: Path) -> None:
    each, run = attempts(tmp_path, "killed,done")
    each.process.signals.add(15)
    assert (each.make().state, (run.path / "ends").read_text()) == ("stopped", "killed,done")
    each.process.signals.clear()
    assert each.make().state == "done"
    assert each.make().state == "done"
    assert (run.path / "ends").read_text() == ""
    assert [row.cause for row in ended_attempts(run)] == ["killed"]
