"""The training loop: what it writes, what it skips, when it gives up, and the same on two processes."""

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from building import TINY
from lightning_fabric import Fabric
from rasterio.errors import NotGeoreferencedWarning

from hybrid_patch.config.compose import compose
from hybrid_patch.config.recipe import identity
from hybrid_patch.config.schema import Config
from hybrid_patch.data.source import open_source
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.stop_signal import StopRequest
from hybrid_patch.train.attempt import prepare
from hybrid_patch.train.checkpointing import newest
from hybrid_patch.train.loggers.backend import LoggedRun
from hybrid_patch.train.loggers.csv_backend import CsvBackend
from hybrid_patch.train.metric_logger import MetricLogger
from hybrid_patch.train.optimizer import build_optimizer, learning_rate
from hybrid_patch.train.step import TrainingModule
from hybrid_patch.train.trainer import Trainer


def config_for(run_dir: Path, *overrides: str) -> Config:
    return compose([*TINY, "trainer.steps=10", f"run_dir={run_dir}", *overrides])


def trainer_for(config: Config) -> Trainer:
    run = RunDirectory(Path(config.run_dir or ""))
    prepare(run, config, identity(config))
    source = open_source(config.data)
    torch.manual_seed(config.seed)
    fabric = Fabric(accelerator="cpu", devices=1)
    module = TrainingModule(config, source.modalities)
    return Trainer(config, fabric, run, source, module, newest(fabric, run))


def trainer_for_again(trainer: Trainer) -> Trainer:
    """The same run, started again."""
    trainer.run.unlock()
    return trainer_for(trainer.config)


def spoil(trainer: Trainer, steps: set[int]) -> list[dict[str, torch.Tensor]]:
    """Make the loss of some steps not finite; returns the weights before each step as they come."""
    weights: list[dict[str, torch.Tensor]] = []

    def hook(module: torch.nn.Module, inputs: Any, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights.append({name: p.detach().clone() for name, p in module.named_parameters()})
        return {**terms, "loss": terms["loss"] * torch.nan} if len(weights) - 1 in steps else terms

    trainer.module.register_forward_hook(hook)
    return weights


def test_a_step_without_a_finite_loss_is_skipped_and_counted(tmp_path: Path) -> None:
    trainer = trainer_for(config_for(tmp_path))
    weights = spoil(trainer, {3, 4, 7})
    assert trainer.fit(StopRequest()) == (0, "")
    rows = trainer.run.metrics()
    assert [row["bad_steps"] for row in rows] == [0, 0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert [row["loss"] is None for row in rows] == [step in {3, 4, 7} for step in range(10)]
    for step in range(9):
        unchanged = all(torch.equal(weights[step][name], weights[step + 1][name]) for name in weights[0])
        assert unchanged == (step in {3, 4, 7})


def test_a_few_such_steps_in_a_row_stop_the_run_with_its_state_saved(tmp_path: Path) -> None:
    trainer = trainer_for(config_for(tmp_path, "trainer.max_bad_steps=3"))
    spoil(trainer, {2, 4, 5, 6})
    code, reason = trainer.fit(StopRequest())
    assert code == 1
    assert "no finite loss in 3 steps in a row" in reason
    assert [path.name for path in trainer.run.checkpoints.iterdir()] == ["step_000000007.pt"]
    saved = torch.load(trainer.run.checkpoints / "step_000000007.pt", weights_only=True)
    assert all(torch.isfinite(p).all() for part in ("model", "objective") for p in saved[part].values())


def test_only_so_many_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer = trainer_for(config_for(tmp_path, "trainer.checkpoint_every=2", "trainer.keep_checkpoints=3"))
    trainer.fit(StopRequest())
    names = sorted(path.name for path in trainer.run.checkpoints.iterdir())
    assert names == ["step_000000006.pt", "step_000000008.pt", "step_000000010.pt"]


def test_evaluation_is_in_the_metrics_and_on_disk(tmp_path: Path) -> None:
    quick = ("evaluation=default", "evaluation.every=5", "evaluation.tiles=3", "evaluation.train_pixels=400")
    trainer = trainer_for(config_for(tmp_path, *quick, "evaluation.pictures=1"))
    trainer.fit(StopRequest())
    rows = trainer.run.metrics()
    assert [row["step"] for row in rows if "probe_miou" in row] == [5, 10]
    scores = json.loads(trainer.run.evaluation.read_text())["scores"]
    assert 0 <= scores["probe_miou"] <= 1
    assert 0 <= scores["raw_accuracy"] <= 1  # three tiles of 16 pixels teach nothing
    assert [path.name for path in trainer.run.pictures.iterdir()] == ["tile_0.png"]


def test_without_its_extra_a_training_ends_with_one_line_in_place_of_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "scipy" else find_spec(name, *a))
    trainer = trainer_for(config_for(tmp_path, "evaluation=default", "evaluation.every=5", "evaluation.tiles=2"))
    assert trainer.fit(StopRequest()) == (0, "")
    (line,) = (record.getMessage() for record in caplog.records if "evaluation" in record.getMessage())
    assert line == "no evaluation: scipy: not installed; pip install 'hybrid_patch[eval]'"
    assert trainer.run.checkpoints.joinpath("step_000000010.pt").exists()


@pytest.mark.full
def test_evaluation_changes_no_weight(tmp_path: Path) -> None:
    states = []
    for name, evaluation in (
        ("without", ()),
        ("with", ("evaluation=default", "evaluation.every=2", "evaluation.tiles=2")),
    ):
        trainer = trainer_for(config_for(tmp_path / name, *evaluation))
        trainer.fit(StopRequest())
        states.append(trainer.module.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_an_evaluation_that_fails_costs_no_training(tmp_path: Path) -> None:
    trainer = trainer_for(config_for(tmp_path, "evaluation=default", "evaluation.tiles=2"))
    trainer.run.pictures.write_text("a file where a folder should be")
    assert trainer.fit(StopRequest()) == (0, "")
    assert len(trainer.run.metrics()) == 10
    assert trainer.run.checkpoints.joinpath("step_000000010.pt").exists()


def test_a_metric_logger_that_fails_costs_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class FailingBackend(CsvBackend):
        def log(self, step: int, values: Mapping[str, float | int]) -> None:
            raise ConnectionResetError("the service is gone")

    trainer = trainer_for(config_for(tmp_path))
    trainer.logger = MetricLogger(FailingBackend(LoggedRun(trainer.run, "id", "sweep", {}, step=0)))
    assert trainer.fit(StopRequest()) == (0, "")
    assert caplog.text.count("the service is gone") == 1


def test_a_stop_before_the_first_step_saves_too(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.note(15, None)
    trainer = trainer_for(config_for(tmp_path))
    code, reason = trainer.fit(stop)
    assert code == 75
    assert "SIGTERM after step 0" in reason
    again = trainer_for_again(trainer)
    assert again.step == 0
    assert again.fit(StopRequest()) == (0, "")


def test_bad_steps_in_a_row_are_remembered_over_a_stop(tmp_path: Path) -> None:
    trainer = trainer_for(config_for(tmp_path, "trainer.max_bad_steps=3", "trainer.checkpoint_every=1"))
    weights, stop = spoil(trainer, {3, 4}), StopRequest()
    trainer.module.register_forward_hook(lambda *_: stop.note(15, None) if len(weights) == 5 else None)
    assert trainer.fit(stop)[0] == 75
    again = trainer_for_again(trainer)
    assert again.metrics.counters["bad_in_a_row"] == 2
    spoil(again, {0})
    assert again.fit(StopRequest())[0] == 1
    last = trainer_for_again(again)
    assert last.metrics.counters == {"bad_steps": 3, "bad_in_a_row": 0, "skipped": 0}


@pytest.mark.full
def test_bfloat16_blocks_train_with_losses_in_float32(tmp_path: Path) -> None:
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    assert command(plain).returncode == 0
    done = command(mixed, "runtime.precision=bf16-mixed")
    assert done.returncode == 0, done.stderr
    for a, b in zip(RunDirectory(plain).metrics(), RunDirectory(mixed).metrics(), strict=True):
        assert a["loss"] != b["loss"]
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)


def test_one_process_at_a_time_is_at_work_on_a_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.lock()
    run.set_status("running", step=3)
    refused = command(tmp_path)
    assert refused.returncode == 2
    assert "another process is at work on this run" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    part = tmp_path / "checkpoints" / ".step_000000004.pt.123.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    assert command(tmp_path).returncode == 0
    assert not part.exists()


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(tmp_path: Path) -> None:
    config = compose(["optimizer.lr=1", "optimizer.warmup=0.1", "optimizer.final_lr_ratio=0.1"]).optimizer
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(1)
    assert rates[55] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1, abs=0.001)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_only_the_weights_of_linear_maps_decay(tmp_path: Path) -> None:
    config = config_for(tmp_path, "upsampler=bilinear")
    module = TrainingModule(config, open_source(config.data).modalities)
    decaying, level = build_optimizer(module, config.optimizer).param_groups
    assert decaying["weight_decay"] == config.optimizer.weight_decay > 0 == level["weight_decay"]
    names = {id(p): name for name, p in module.named_parameters()}
    decays = {names[id(p)].rsplit(".", 1)[-1] for p in decaying["params"] if "kernels" not in names[id(p)]}
    assert decays == {"weight"}
    assert {"model.encoder.embed.srtm.bias", "model.decoder.query"} <= {names[id(p)] for p in level["params"]}
    assert not any(p.ndim > 1 and "norm" in names[id(p)] for p in decaying["params"])
    assert any("encodings.band_set" in names[id(p)] for p in level["params"])


def command(run_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hybrid_patch.train", *TINY, "trainer.steps=6", f"run_dir={run_dir}", *overrides]
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


@pytest.mark.full
@pytest.mark.parametrize("queries", ["null", "20", "3"])
def test_two_processes_train_as_one(tmp_path: Path, queries: str) -> None:
    common = ("trainer.batch_size=4", f"loss.max_queries={queries}")
    alone = command(tmp_path / "one", *common)
    together = command(tmp_path / "a two = [b]", *common, "runtime=ddp", "runtime.threads=1")
    assert (alone.returncode, together.returncode) == (0, 0), alone.stderr + together.stderr
    single, double = (RunDirectory(tmp_path / name).metrics() for name in ("one", "a two = [b]"))
    assert [row["step"] for row in double] == [row["step"] for row in single]
    for a, b in zip(single, double, strict=True):
        for name in ("loss", "decoded", "visible", "context", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
def test_compiled_blocks_train_the_same(tmp_path: Path) -> None:
    plain, compiled = (command(tmp_path / on, f"runtime.compile_blocks={on}") for on in ("false", "true"))
    assert (plain.returncode, compiled.returncode) == (0, 0), compiled.stderr
    for a, b in zip(*(RunDirectory(tmp_path / on).metrics() for on in ("false", "true")), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


def test_a_run_is_not_put_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    refused = command(tmp_path)
    assert refused.returncode == 2
    assert f"run_dir={tmp_path}: holds other files (thesis.tex); choose a new or empty directory" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("below", ["", "/run"])
def test_a_run_directory_that_cannot_be_made_is_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    refused = command(Path(f"{tmp_path / 'file'}{below}"))
    assert refused.returncode == 2
    assert (
        refused.stderr
        == f"error: run_dir={tmp_path}/file{below}: {tmp_path}/file is a file; give a path where a folder can be made\n"
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_ctrl_c_before_there_is_anything_to_save_says_nothing(tmp_path: Path, seconds: float) -> None:
    line = [sys.executable, "-m", "hybrid_patch.train", *TINY, "trainer.steps=1000", f"run_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 75, 130)
    assert "Traceback" not in err


def train_on_rasters(tmp_path: Path, broken: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Train on six small GeoTIFFs of which the first are truncated."""
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for i in range(6):
        path = images / f"{i}.tif"
        profile = {"driver": "GTiff", "width": 16, "height": 16, "count": 3, "dtype": "uint16"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", **profile) as file:
                file.write(np.random.default_rng(i).integers(1, 1000, (3, 16, 16)).astype("uint16"))
        if i < broken:
            path.write_bytes(path.read_bytes()[:700])
    line = [
        *(sys.executable, "-m", "hybrid_patch.train", *(o for o in TINY if not o.startswith("data.scene"))),
        *("data=rasters", f"data.root={tmp_path / 'data'}", "trainer.steps=30", f"run_dir={tmp_path / 'run'}"),
        *("data.val_share=0", *overrides),
    ]
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


@pytest.mark.sample(1)
@pytest.mark.parametrize("runtime", ["cpu", "ddp"])
def test_a_broken_sample_ends_the_run_with_one_line(tmp_path: Path, runtime: str) -> None:
    done = train_on_rasters(tmp_path, 1, f"runtime={runtime}", "runtime.threads=1")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert "images/0.tif" in line
    assert "data.on_error=skip" in line
    assert RunDirectory(tmp_path / "run").status().state == "failed"


@pytest.mark.full
def test_too_many_skipped_samples_stop_the_run(tmp_path: Path) -> None:
    done = train_on_rasters(tmp_path, 3, "data.on_error=skip")
    assert done.returncode == 1, done.stderr
    assert "data.max_skipped" in done.stderr
    run = RunDirectory(tmp_path / "run")
    assert run.status().state == "failed"
    assert run.metrics()[-1]["skipped"] > 5
    assert "images/0.tif" in run.log.read_text()
