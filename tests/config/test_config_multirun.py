"""Sweeps as real processes: a bad member stops no other, and the exit code says what became of them."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from config_commands import ran, started
from config_stand_in import KILLED, LATE_BAD_INPUT, RAISES, WAITS

from hybrid_patch.config.multirun import Member, Outcome, exit_code


def states(stdout: str) -> list[str]:
    """The state of each member, from the lines at the end."""
    known = ("done", "bad input", "stopped", "failed", "not started")
    return [next(s for s in known if line.startswith(s)) for line in stdout.splitlines() if line.startswith(known)]


def test_members_run_under_the_sweeps_folder(tmp_path: Path) -> None:
    done = ran(tmp_path, "-m", "upsampler=bilinear,learned", "seed=range(0,1)", "sweep_name=mine")
    assert done.returncode == 0, done.stderr
    assert states(done.stdout) == ["done"] * 2
    assert done.stdout.endswith("2 of 2 done\n")
    names = [path.parent.name for path in (tmp_path / "runs" / "mine").glob("*/record.json")]
    starts = [f"hybrid8-1_{name}_nano_synthetic_s0_" for name in ("bilinear", "learned")]
    assert sorted(name[:-10] for name in names) == starts
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_members_with_a_bad_config_stop_no_other(tmp_path: Path) -> None:
    done = ran(tmp_path, "data.tile=64,60", "upsampler=bilinear,nonsense", "-m")
    assert done.returncode == 2
    assert states(done.stdout) == ["done", "bad input", "bad input", "bad input"]
    assert len(list(tmp_path.rglob("record.json"))) == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_a_key_that_only_some_members_have(tmp_path: Path) -> None:
    done = ran(tmp_path, "-m", "upsampler=bilinear,learned", "upsampler.width=32")
    assert states(done.stdout) == ["bad input", "done"]


def test_members_that_raise_or_are_killed_stop_no_other(tmp_path: Path) -> None:
    done = ran(tmp_path, "-m", f"trainer.steps={RAISES},{KILLED},{LATE_BAD_INPUT},10")
    assert done.returncode == 1
    assert states(done.stdout) == ["failed", "failed", "bad input", "done"]
    assert "killed by SIGKILL (out of memory?)" in done.stdout
    assert "RuntimeError: broken on purpose" in done.stderr


def test_another_launcher_of_hydras(tmp_path: Path) -> None:
    done = ran(tmp_path, "-m", "hydra/launcher=basic", "seed=0,1", "run_dir=x")
    assert done.returncode == 2
    done = ran(tmp_path, "-m", "hydra/launcher=basic", "seed=0,1", "upsampler=learned")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/default/*/record.json"))) == 2


def test_if_no_member_is_good_nothing_is_run(tmp_path: Path) -> None:
    done = ran(tmp_path, "-m", "upsampler=no,never", "seed=0,1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_same_run_is_not_run_twice(tmp_path: Path) -> None:
    done = ran(tmp_path, "-m", "runtime.workers=0,2", "seed=0")
    assert done.returncode == 0
    assert done.stdout.count("the same run as one before") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_member_and_the_sweep(number: signal.Signals, tmp_path: Path) -> None:
    process = started(tmp_path, "-m", f"trainer.steps={WAITS},10")
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("waiting")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C does: to all of the process group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert states(out) == ["stopped", "not started"]
    (received,) = tmp_path.rglob("received.json")
    assert json.loads(received.read_text()) == [number]
    assert len(list(tmp_path.rglob("record.json"))) == 1


def test_paths_of_members_are_literal(tmp_path: Path) -> None:
    folder = tmp_path / "a,b ${seed} 'c'"
    folder.mkdir()
    (folder / "tile.tif").touch()
    done = ran(tmp_path, "-m", "data=rasters", f"data.root={folder}", "seed=1")
    assert states(done.stdout) == ["done"], done.stderr
    roots = {json.loads(path.read_text())["root"] for path in tmp_path.rglob("record.json")}
    assert roots == {str(folder)}


@pytest.mark.parametrize(
    ("states_", "interrupted", "code"),
    [
        (["done", "done"], False, 0),
        (["done", "done"], True, 0),
        (["done", "bad input"], False, 2),
        (["bad input", "failed"], False, 1),
        (["failed", "stopped"], False, 1),
        (["failed", "stopped"], True, 75),
        (["failed", "not started"], True, 75),
        (["done", "stopped"], False, 75),
    ],
)
def test_the_code_of_a_sweep(states_: list[str], interrupted: bool, code: int) -> None:
    outcomes = [Outcome(Member([]), state) for state in states_]  # type: ignore[arg-type]
    assert exit_code(outcomes, interrupted) == code
