"""One member's bad file, or the sweep's own, takes nothing from the others."""

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import WAYS
from launching import check_whole, launch, run_directories, submitted, until_done

from launch.commands import CancelOptions, ResumeOptions, cancel_command, resume_command
from launch.status import member_statuses
from launch.sweep import Sweep
from launch.watching import StatusOptions, status_command

pytestmark = pytest.mark.faults

STEPS = 20
MEMBER_FILES = (
    "lock.json",
    "status.json",
    "run.json",
    "config.yaml",
    "metrics.jsonl",
    "attempts.jsonl",
    "evaluation.json",
)
SAMPLED = [way if way in ("torn", "a fifo") else pytest.param(way, marks=pytest.mark.fire) for way in WAYS]
"""Every way for the campaign, two for the suite."""
SWEEP_FILES = ("manifest.json", "submissions/0001/submission.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of three members that are done."""
    folder = tmp_path_factory.mktemp("damaged") / "folder"
    folder.mkdir()
    until_done(*submitted(folder, "seed=0,1,2", f"trainer.steps={STEPS}"))
    return folder


@pytest.fixture
def stopped(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in which the second member was stopped before its first checkpoint."""
    folder = tmp_path / "folder"
    shutil.copytree(finished, folder)
    _, member, _ = run_directories(folder)
    shutil.rmtree(member / "checkpoints")
    (member / "metrics.jsonl").write_text("")
    status = json.loads((member / "status.json").read_text())
    (member / "status.json").write_text(json.dumps({**status, "state": "preempted", "step": 0}))
    monkeypatch.chdir(folder)
    return folder


def states(folder: Path) -> list[str]:
    return [each.state for each in member_statuses(Sweep(folder / "runs" / "mine"))]


@pytest.mark.parametrize("way", SAMPLED)
@pytest.mark.parametrize("name", MEMBER_FILES)
def test_a_member_with_a_bad_file_hides_no_other(
    stopped: Path, name: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    member = run_directories(stopped)[1]
    if not (member / name).exists():
        (member / name).write_text("x" * 100)
    WAYS[way](member / name)
    assert status_command(StatusOptions(sweep="mine")) == 1
    printed = capsys.readouterr().out
    assert "2 done" in printed
    assert states(stopped)[::2] == ["done", "done"]
    if name == "status.json":
        assert "1 × damaged: damaged: " in " ".join(printed.split())
        assert "resume makes it anew" in " ".join(printed.split())
    assert cancel_command(CancelOptions(name="mine")) == 0
    shutil.rmtree(stopped / "runs/mine/launch/submissions/0001/cancelled")
    assert resume_command(ResumeOptions(sweep="mine", dry_run=True)) == 0
    assert "dry_run: 1 member would be submitted again" in capsys.readouterr().out


@pytest.mark.parametrize("way", SAMPLED)
@pytest.mark.parametrize("name", SWEEP_FILES)
def test_a_bad_file_of_the_sweep_hides_no_member(
    stopped: Path, name: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "runs" / "mine" / "launch" / name
    ids = [run.name for run in run_directories(stopped)]
    WAYS[way](path)
    assert status_command(StatusOptions(sweep="mine")) == 1
    assert states(stopped) == ["done", "stopped", "done"]
    assert cancel_command(CancelOptions(name="mine")) == 0
    queue = () if name == "manifest.json" else ("cluster=local",)
    shutil.rmtree(stopped / "runs/mine/launch/submissions/0001/cancelled", ignore_errors=True)
    assert resume_command(ResumeOptions(sweep="mine", cluster=queue, dry_run=True)) == 0
    assert "dry_run: 1 member would be submitted again" in capsys.readouterr().out
    if name == "manifest.json":
        assert [run.name for run in run_directories(stopped)] == ids


CHANGES: dict[str, Callable[[Path], object]] = {
    "its folder": lambda member: shutil.rmtree(member),
    "its config.yaml": lambda member: (member / "config.yaml").unlink(),
    **{
        f"{name}, {way}": lambda member, name=name, way=way: WAYS[way](member / name)  # type: ignore[misc]
        for name in ("lock.json", "status.json", "run.json", "config.yaml", "output.txt")
        for way in ("NUL bytes", "a fifo", "a folder", "YAML tags")
    },
}


@pytest.mark.fire
@pytest.mark.parametrize("change", CHANGES)
def test_resume_mends_a_member_and_it_trains_to_its_end(stopped: Path, change: str) -> None:
    assert_mended(stopped, change)


@pytest.mark.parametrize("change", ["config.yaml, YAML tags"])
def test_resume_freezes_a_damaged_config_again(stopped: Path, change: str) -> None:
    """A sample of the above, for the suite."""
    assert_mended(stopped, change)
    assert not list(stopped.rglob("executed"))


def assert_mended(folder: Path, change: str) -> None:
    member = run_directories(folder)[1]
    lock = member / "lock.json"
    lock.write_text("x" * 100)
    CHANGES[change](member)
    done = launch(folder, "resume", "mine")
    assert done.returncode == 0, done.stderr
    assert "submitted 1 member of" in done.stdout
    until_done(member)
    check_whole(member, STEPS)
    assert launch(folder, "status", "mine").returncode == 0


def test_what_cannot_be_mended_is_told_and_the_others_go_on(stopped: Path) -> None:
    first, second, _ = run_directories(stopped)
    (first / "status.json").unlink()
    manifest = stopped / "runs/mine/launch/manifest.json"
    rows = json.loads(manifest.read_text())
    rows["members"][1]["arguments"] = ["seed=77"]
    manifest.write_text(json.dumps(rows))
    (second / "config.yaml").write_text("a: [")
    done = launch(stopped, "resume", "mine")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("not submitted: ")]
    assert f"damaged: {second / 'config.yaml'}, " in line
    assert "its arguments give another run now" in line
    assert "submitted 1 member of" in done.stdout
    until_done(first)


@pytest.mark.parametrize("way", ["NUL bytes", "a fifo"])
def test_the_page_has_the_members_of_a_damaged_manifest(stopped: Path, way: str) -> None:
    WAYS[way](stopped / "runs/mine/launch/manifest.json")
    member = run_directories_by_hand(stopped)[1]
    shutil.rmtree(member)
    done = launch(stopped, "report", "mine")
    assert done.returncode == 0, done.stderr
    assert member.name in (stopped / "runs/mine/report.html").read_text()


def run_directories_by_hand(folder: Path) -> list[Path]:
    submission = folder / "runs/mine/launch/submissions/0001/submission.json"
    return [folder / "runs/mine" / row["id"] for row in json.loads(submission.read_text())["members"]]


def test_a_damaged_submission_whose_queue_lives_is_not_submitted_twice(
    stopped: Path,
) -> None:
    submission = stopped / "runs/mine/launch/submissions/0001"
    (submission / "submission.json").write_text("{")
    with (submission / "queue.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert states(stopped) == ["done", "queued", "done"]
    assert states(stopped) == ["done", "stopped", "done"]
