"""Metric loggers: names, what is on disk, runs that are stopped and go on, and finished runs that are mirrored."""

import csv
import json
import logging
import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from building import TINY, trained_run

from hybrid_patch.config.compose import compose
from hybrid_patch.mirror import mirror_run
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.train.loggers.backend import prefixed

EVALUATED = (
    *("evaluation=default", "evaluation.tiles=2", "evaluation.train_pixels=200", "evaluation.knn_pixels=0"),
    *("evaluation.baselines=[raw]", "evaluation.pictures=1", "evaluation.seeds=1"),
)
SCORES = ("probe_miou", "knn_miou", "evaluation_seconds")
Logged = dict[str, list[tuple[int, float]]]
"""Steps and values by name."""


def test_metrics_are_grouped_by_what_they_tell() -> None:
    row = {
        **{"step": 3, "loss": 0.5, "my_term": 0.2, "grad_norm": None, "step_seconds": 0.1, "peak_memory_bytes": 7},
        **{"validation_miou": 0.3, "probe_miou": 0.4, "evaluation_seconds": 2.0},
    }
    assert prefixed(row) == {
        **{"train/loss": 0.5, "train/my_term": 0.2, "perf/step_seconds": 0.1, "perf/peak_memory_bytes": 7},
        **{"eval/validation_miou": 0.3, "eval/probe_miou": 0.4, "perf/evaluation_seconds": 2.0},
    }
    assert prefixed({"step": 3, "probe_miou": 0.4}) == {"eval/probe_miou": 0.4}


def table(run: Path) -> Logged:
    logged: Logged = defaultdict(list)
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    logged[name].append((int(row["step"]), float(value)))
    del logged["step"]
    return dict(logged)


def events(run: Path) -> Logged:
    """The scalars of TensorBoard's files, without steps that a later start hides; pictures with the value 0."""
    from tensorboardX.proto.event_pb2 import Event

    logged: Logged = defaultdict(list)
    for path in sorted((run / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            if event.HasField("session_log") and event.step:
                logged = {name: [each for each in x if each[0] < event.step] for name, x in logged.items()}
                logged = defaultdict(list, logged)
            for value in event.summary.value:
                logged[value.tag].append((event.step, value.simple_value))
    return {name: values for name, values in logged.items() if values}


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a `.wandb` file, which is a log of LevelDB's: records in blocks of 32 KiB, whole or in parts."""
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")

    content, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 2**15 - position % 2**15 < 7:  # no room for a header: the block is filled up
            position += 2**15 - position % 2**15
            continue
        _, size, kind = struct.unpack("<IHB", content[position : position + 7])
        parts += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield messages.Record.FromString(parts)
            parts = b""


def fragments(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*/*.wandb"))


def wandb_history(file: Path) -> Logged:
    """The metrics of a `.wandb` file; pictures with the value 0."""
    logged: Logged = defaultdict(list)
    for record in wandb_records(file):
        if record.HasField("history"):
            for item in record.history.item:
                name, *field = item.nested_key  # a picture has fields
                if field in ([], ["_type"]):
                    value = 0.0 if field else float(item.value_json)
                    logged[name].append((record.history.step.num, value))
    return {name: values for name, values in logged.items() if not name.startswith("_")}


def expected(run: Path) -> Logged:
    logged: Logged = defaultdict(list)
    for row in RunDirectory(run).metrics():
        for name, value in prefixed(row).items():
            logged[name].append((row["step"], value))
    return dict(logged)


def close_to(logged: Logged, wanted: Logged) -> None:
    """The same steps and, to float32, the same values."""
    assert logged.keys() == wanted.keys()
    for name, values in wanted.items():
        assert [step for step, _ in logged[name]] == [step for step, _ in values]
        assert [value for _, value in logged[name]] == pytest.approx([value for _, value in values], rel=1e-5)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a sweep, trained with `logger=csv` and evaluated after its second and last step."""
    folder = tmp_path_factory.mktemp("runs") / "sweep" / "run"
    return ended(trained_run(folder, *TINY, *EVALUATED, "logger=csv", steps=2))


def ended(run: Path) -> Path:
    """The run, as if the process that trained it had ended."""
    (run / "lock.json").unlink()
    return run


def test_a_table_has_all_metrics_also_those_of_an_evaluation(evaluated: Path) -> None:
    logged = table(evaluated)
    assert {"train/loss", "eval/probe_miou", "perf/step_seconds"} <= logged.keys()
    close_to(logged, expected(evaluated))


@pytest.mark.full
def test_what_a_killed_attempt_logged_after_its_checkpoint_is_replaced(tmp_path: Path) -> None:
    """The second start goes on from an earlier step than the first had logged, as after `kill -9`."""
    for name, read in {"csv": table, "tensorboard": events}.items():
        run = ended(trained_run(tmp_path / name, *TINY, f"logger={name}", "trainer.checkpoint_every=2", steps=4))
        (run / "checkpoints" / "step_000000004.pt").unlink()
        (run / "status.json").unlink()
        trained_run(run, *TINY, f"logger={name}", "trainer.checkpoint_every=2", steps=4)
        close_to(read(run), expected(run))


def test_an_evaluation_that_is_taken_up_after_a_stop_is_in_the_line_of_its_step(
    evaluated: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    *lines, last = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    stopped = {name: value for name, value in json.loads(last).items() if name not in SCORES}
    (run / "metrics.jsonl").write_text("".join([*lines, json.dumps(stopped) + "\n"]))
    (run / "status.json").unlink()
    ended(trained_run(run, *TINY, *EVALUATED, "logger=csv", steps=2))
    assert "eval/probe_miou" in table(run)
    close_to(table(run), expected(run))


@pytest.mark.full
def test_wandb_has_the_sweep_as_group_and_its_fragments_are_one_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = (*TINY, "logger=wandb", "sweep_name=mine")
    with caplog.at_level(logging.INFO):
        run = trained_run(tmp_path / "a run", *words, steps=4, stop_after=2)
    assert len(fragments(run)) == 2
    joined: Logged = defaultdict(list)
    for file in fragments(run):
        (begun,) = (record.run for record in wandb_records(file) if record.HasField("run"))
        assert (begun.run_id, begun.run_group) == (RunDirectory(run).identity()["run_id"], "mine")
        for name, values in wandb_history(file).items():
            joined[name] += values
    close_to(joined, expected(run))
    command = f"wandb sync '{run}/wandb'/offline-run-*"
    assert f"to upload: {command}" in caplog.text
    bin_folder = Path(sys.executable).parent
    planned = subprocess.run(f"{bin_folder}/{command} --dry-run", shell=True, capture_output=True, text=True)
    assert "Would sync 2 run(s)" in planned.stdout + planned.stderr


def mirrored(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hybrid_patch", "mirror", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.full
def test_finished_runs_are_mirrored_into_any_logger(evaluated: Path) -> None:
    sweep, wanted = evaluated.parent, expected(evaluated)
    (sweep / "empty").mkdir()
    (sweep / "empty" / "config.yaml").write_text("seed: 0\n")
    (evaluated / "metrics.csv").unlink()
    for name in ("csv", "tensorboard", "tensorboard", "wandb"):
        done = mirrored(str(sweep), f"logger={name}")
        assert done.returncode == 2
        assert done.stderr == f"error: {sweep}/empty: has no metrics yet; train it first\n"
        assert done.stdout.startswith(f"{evaluated}: 2 rows to {name}")
    (file,) = fragments(evaluated)
    close_to(table(evaluated), wanted)
    for logged in (events(evaluated), wandb_history(file)):  # of the two times, TensorBoard shows the last
        assert logged.pop("eval/tile_0") == [(2, 0.0)]
        close_to(logged, wanted)


def test_a_mirror_that_fails_has_closed_its_logger(evaluated: Path, tmp_path: Path) -> None:
    """The next run of the same process is logged as a run of its own."""
    import wandb

    run = tmp_path / "torn"
    shutil.copytree(evaluated, run)
    shutil.rmtree(run / "wandb", ignore_errors=True)
    for picture in (run / "pictures").glob("*.png"):
        picture.write_bytes(b"no picture")
    with pytest.raises(OSError, match="cannot identify image"):
        mirror_run(run, compose([*TINY, "logger=wandb"]).logger)
    assert wandb.run is None


def test_a_mirror_needs_a_logger_and_a_run_that_has_ended(evaluated: Path) -> None:
    run = evaluated
    assert mirrored(str(run)).stderr == "error: logger: missing; give logger=wandb, logger=tensorboard or logger=csv\n"
    assert "logger=none: logs nothing" in mirrored(str(run), "logger=none").stderr
    directory = RunDirectory(run)
    directory.set_status("running")
    directory.lock()
    try:
        before = (run / "metrics.csv").stat().st_mtime_ns
        refused = mirrored(str(run), "logger=csv")
    finally:
        directory.unlock()
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert (run / "metrics.csv").stat().st_mtime_ns == before
