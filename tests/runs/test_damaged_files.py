"""Every small file of a run is read as if a stranger had written it, and what can be made anew is."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from building import TINY
from damage import WAYS
from hypothesis import given
from hypothesis import strategies as st
from resumed_runs import metrics, same

from hybrid_patch.errors import InputError
from hybrid_patch.runs.checkpoint_files import list_checkpoints
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.lock import LostLockError
from hybrid_patch.runs.records import DamagedFileError, read_yaml, set_aside

STEPS = 12
RECIPE = [*TINY, f"trainer.steps={STEPS}", "trainer.checkpoint_every=4", "trainer.keep_checkpoints=2"]
READERS: dict[str, Callable[[RunDirectory], object]] = {
    "lock.json": RunDirectory.holder,
    "status.json": RunDirectory.status,
    "run.json": RunDirectory.identity,
    "evaluation.json": RunDirectory.evaluated,
    "metrics.jsonl": RunDirectory.metrics,
    "config.yaml": lambda run: read_yaml(run.config),
}


def value_or_error(read: Callable[[RunDirectory], object], run: Path) -> object:
    try:
        return read(RunDirectory(run))
    except DamagedFileError as error:
        return error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", READERS)
def test_a_file_is_what_it_says_or_damaged(tmp_path: Path, name: str, way: str) -> None:
    path = tmp_path / name
    path.write_text('{"state": "running", "run_id": "a", "step": 1}\n')
    WAYS[way](path)
    value = value_or_error(READERS[name], tmp_path)
    if isinstance(value, DamagedFileError):
        assert str(value).startswith(f"damaged: {path}, ")
        assert "\n" not in str(value)
        assert len(str(value)) < 400
    else:  # JSON is YAML, and lines that are no rows are left out
        assert name in ("config.yaml", "metrics.jsonl", "evaluation.json")
        assert isinstance(value, dict | list)
    assert not Path("executed").exists()


@given(st.binary(max_size=200))
def test_no_bytes_end_a_reader_in_anything_else(content: bytes) -> None:
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"bytes-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    for name, read in READERS.items():
        (folder / name).write_bytes(content)
        value_or_error(read, folder)
    shutil.rmtree(folder)


def test_what_is_set_aside_replaces_nothing(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a").write_text(str(number))
        set_aside(tmp_path / "a")
    assert [(tmp_path / f"a.damaged{end}").read_text() for end in ("", "-2", "-3")] == ["0", "1", "2"]


@pytest.mark.parametrize("way", ["empty", "torn", "a folder", "a fifo"])
def test_a_living_attempt_makes_its_damaged_lock_and_status_anew(tmp_path: Path, way: str) -> None:
    run = RunDirectory(tmp_path)
    run.lock()
    run.set_status("running", attempt=3, step=7)
    for name in ("lock.json", "status.json"):
        WAYS[way](tmp_path / name)
    run.set_status("running", step=8)
    assert (run.status().attempt, run.status().step) == (3, 8)
    other = RunDirectory(tmp_path)
    (tmp_path / "lock.json").write_text(json.dumps({**json.loads((tmp_path / "lock.json").read_text()), "token": "x"}))
    with pytest.raises(LostLockError):
        run.set_status("done")
    assert other.status().state == "running"


def test_a_damaged_lock_is_taken_only_from_the_dead(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.set_status("running")
    (tmp_path / "lock.json").write_text("")
    with pytest.raises(InputError, match="alive a moment ago"):
        run.lock()
    status = json.loads((tmp_path / "status.json").read_text())
    (tmp_path / "status.json").write_text(json.dumps({**status, "heartbeat": 0.0}))
    run.lock()
    assert run.alive()
    assert (tmp_path / "lock.json.damaged").read_text() == ""


# --- a run that was stopped after its eighth step, damaged in one way, and gone on with


def train(run: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hybrid_patch.resume", str(run)]
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done, with the checkpoints of its last two savings."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_patch.train", *RECIPE, f"run_dir={folder}"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """A copy of it as it was after its eleventh step, of which the first eight are saved."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "checkpoints" / "step_000000012.pt").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:11]))
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "preempted", "step": 8}))
    return run


def lines_changed(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        path = run / "metrics.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


def file_damaged(name: str, way: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        if not (run / name).exists():
            (run / name).write_text("x" * 100)
        WAYS[way](run / name)

    return damage


MENDED: dict[str, Callable[[Path], None]] = {
    "lines doubled": lines_changed(lambda lines: [line for line in lines for _ in range(2)]),
    "blank lines": lines_changed(lambda lines: [line + "\n\n" for line in lines]),
    "lines out of order": lines_changed(lambda lines: lines[::-1]),
    "a torn line within the last steps": lines_changed(lambda lines: [*lines[:9], lines[9][:20] + "\n", lines[10]]),
    "garbage between": lines_changed(lambda lines: [*lines[:3], '\0{"step": "x"}\nnull\n[]\n7\n', *lines[3:]]),
    **{
        f"{name}, {way}": file_damaged(name, way)
        for name in ("lock.json", "status.json", "run.json", "evaluation.json", "attempts.jsonl", "log.txt", ".lock")
        for way in ("empty", "NUL bytes", "nested deep", "a fifo", "a folder", "a link to itself")
    },
}


@pytest.mark.fire
@pytest.mark.parametrize("damage", MENDED)
def test_what_can_be_proved_is_mended_and_no_step_is_lost_or_doubled(whole: Path, stopped: Path, damage: str) -> None:
    MENDED[damage](stopped)
    done = train(stopped)
    assert done.returncode == 0, done.stderr
    assert metrics(stopped) == metrics(whole)
    state = [torch.load(list_checkpoints(run / "checkpoints")[-1][1]) for run in (stopped, whole)]
    assert same(*state)
    assert not (stopped / "lock.json").exists()
    assert RunDirectory(stopped).status().state == "done"


@pytest.mark.full
def test_a_run_damaged_in_many_ways_at_once_is_mended(whole: Path, stopped: Path) -> None:
    """A sample of the above, for the suite."""
    for damage in (
        "lines doubled",
        "lock.json, empty",
        "status.json, a folder",
        "run.json, NUL bytes",
        "log.txt, a fifo",
    ):
        MENDED[damage](stopped)
    done = train(stopped)
    assert done.returncode == 0, done.stderr
    assert metrics(stopped) == metrics(whole)
    for name in ("lock.json", "status.json", "run.json", "log.txt"):
        assert os.path.lexists(stopped / f"{name}.damaged")
    assert "status.json.damaged" in done.stderr


@pytest.mark.full
def test_a_checkpoint_that_the_metrics_do_not_cover_is_passed_over(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "status.json").unlink()
    lines_changed(lambda lines: [line for number, line in enumerate(lines, 1) if number != 10])(run)
    done = train(run)
    assert done.returncode == 0, done.stderr
    assert metrics(run) == metrics(whole)
    assert (run / "checkpoints" / "step_000000012.pt.ahead").exists()
    assert "is ahead of the metrics" in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("damage", ["empty", "a folder"])
def test_metrics_that_cover_no_checkpoint_are_for_a_person(stopped: Path, damage: str) -> None:
    WAYS[damage](stopped / "metrics.jsonl")
    done = train(stopped)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"damaged: {stopped / 'metrics.jsonl'}, " in line
    assert "move it away to go on without its lines" in line
    (stopped / "metrics.jsonl").rename(stopped.parent / "away")
    assert train(stopped).returncode == 0
    assert [row["step"] for row in metrics(stopped)] == [8, 9, 10, 11, 12]
    (stopped / "status.json").unlink()
    assert train(stopped).returncode == 0  # the lines that a person gave up are not asked for again


def without(*parts: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {name: value for name, value in state.items() if name not in parts}


def changed(part: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, part: change(state[part])}


CHECKPOINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"no {part}": without(part) for part in ("model", "objective", "optimizer", "counters", "modalities")},
    "a part more": lambda state: {**state, "extra": 1},
    "null": lambda state: None,
    "a list": lambda state: [1, 2],
    "a tensor": lambda state: torch.zeros(3),
    "weights of another type": changed("model", lambda weights: dict.fromkeys(weights, 1.0)),
    "a text for a counter": changed("counters", lambda counters: {**counters, "skipped": "x"}),
    "no counter": changed("counters", lambda counters: {}),
    "no groups": changed("optimizer", lambda state: {"state": state["state"]}),
    "modalities of no type": changed("modalities", lambda modalities: dict.fromkeys(modalities, 3)),
}
OTHERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a weight more": changed("model", lambda weights: {**weights, "more": torch.zeros(1)}),
    "a weight less": changed("objective", lambda weights: dict(list(weights.items())[1:])),
    "a weight of another shape": changed("model", lambda weights: {name: torch.zeros(7, 7) for name in weights}),
    "moments of another shape": changed(
        "optimizer",
        lambda state: {**state, "state": {i: {**v, "exp_avg": torch.zeros(7, 7)} for i, v in state["state"].items()}},
    ),
    "moments of a parameter that is not": changed(
        "optimizer", lambda state: {**state, "state": {i + 10_000: v for i, v in state["state"].items()}}
    ),
    "groups without parameters": changed(
        "optimizer", lambda state: {**state, "param_groups": [{**g, "params": []} for g in state["param_groups"]]}
    ),
    "groups without a rate": changed(
        "optimizer",
        lambda state: {
            **state,
            "param_groups": [{k: v for k, v in g.items() if k != "lr"} for g in state["param_groups"]],
        },
    ),
    "modalities with other fields": changed(
        "modalities", lambda modalities: {name: {"bands": ["a"]} for name in modalities}
    ),
}


@pytest.mark.fire
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_lacks_something_is_passed_over(whole: Path, stopped: Path, name: str) -> None:
    _, path = list_checkpoints(stopped / "checkpoints")[-1]
    older = path.with_name("step_000000004.pt")
    shutil.copy(path, older)  # stands for the one before: its own weights are not needed here
    torch.save(CHECKPOINTS[name](torch.load(path)), path)
    done = train(stopped)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert path.with_name(f"{path.name}.damaged").exists()
    assert [row["step"] for row in metrics(stopped)] == list(range(1, STEPS + 1))


@pytest.mark.fire
@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_kind_ends_in_one_line(stopped: Path, name: str) -> None:
    _, path = list_checkpoints(stopped / "checkpoints")[-1]
    torch.save(OTHERS[name](torch.load(path)), path)
    done = train(stopped)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert str(path) in line
    assert path.exists()
