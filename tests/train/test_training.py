"""The training loop: what it writes, what it skips, when it gives up, and the same on two processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from building import TINY
from lightning_fabric import Fabric

from hybrid_patch.config.front import compose
from hybrid_patch.config.schema import Config
from hybrid_patch.data.registry import open_source
from hybrid_patch.loss.objective import Objective
from hybrid_patch.run_directory import RunDirectory
from hybrid_patch.signals import StopRequest
from hybrid_patch.train import Trainer, learning_rate, optimizer_of, prepare


def config_for(run_dir: Path, *overrides: str) -> Config:
    return compose([*TINY, "trainer.steps=10", f"run_dir={run_dir}", *overrides])


def trainer_for(config: Config) -> Trainer:
    run = RunDirectory(Path(config.run_dir or ""))
    prepare(run, config)
    source = open_source(config.data)
    torch.manual_seed(config.seed)
    fabric = Fabric(accelerator="cpu", devices=1)
    return Trainer(config, fabric, run, source, Objective(config, source.modalities))


def spoil(trainer: Trainer, steps: set[int]) -> list[dict[str, torch.Tensor]]:
    """Make the loss of some steps not finite; returns the weights before each step as they come."""
    weights: list[dict[str, torch.Tensor]] = []

    def hook(module: torch.nn.Module, inputs: Any, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights.append({name: p.detach().clone() for name, p in module.named_parameters()})
        return {**terms, "loss": terms["loss"] * torch.nan} if len(weights) - 1 in steps else terms

    trainer.objective.register_forward_hook(hook)
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
    assert all(torch.isfinite(p).all() for p in saved["objective"].values())


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
    scores = json.loads(trainer.run.evaluation.read_text())
    assert 0 <= scores["probe_miou"] <= 1
    assert scores["raw_accuracy"] > 0.2
    assert [path.name for path in trainer.run.pictures.iterdir()] == ["tile_0.png"]


def test_evaluation_changes_no_weight(tmp_path: Path) -> None:
    states = []
    for name, evaluation in (
        ("without", ()),
        ("with", ("evaluation=default", "evaluation.every=2", "evaluation.tiles=2")),
    ):
        trainer = trainer_for(config_for(tmp_path / name, *evaluation))
        trainer.fit(StopRequest())
        states.append(trainer.objective.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_wandb_mirrors_offline_without_an_account(tmp_path: Path) -> None:
    trainer = trainer_for(config_for(tmp_path, "logger=wandb"))
    trainer.fit(StopRequest())
    trainer.mirror.close()
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    assert any(path.suffix == ".wandb" for path in offline.iterdir())


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(tmp_path: Path) -> None:
    config = compose(["optimizer.lr=1", "optimizer.warmup=0.1", "optimizer.final_lr_ratio=0.1"]).optimizer
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(1)
    assert rates[55] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1, abs=0.001)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_only_matrices_decay(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    objective = Objective(config, open_source(config.data).modalities)
    decaying, level = optimizer_of(objective, config.optimizer).param_groups
    assert decaying["weight_decay"] == config.optimizer.weight_decay > 0 == level["weight_decay"]
    assert all(p.ndim >= 2 for p in decaying["params"])
    assert all(p.ndim < 2 for p in level["params"])


def command(run_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hybrid_patch.train", *TINY, "trainer.steps=6", f"run_dir={run_dir}", *overrides]
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone = command(tmp_path / "one", "trainer.batch_size=4")
    together = command(tmp_path / "a two = [b]", "trainer.batch_size=4", "runtime=ddp", "runtime.threads=1")
    assert (alone.returncode, together.returncode) == (0, 0), alone.stderr + together.stderr
    one, two = (RunDirectory(tmp_path / name).metrics() for name in ("one", "a two = [b]"))
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "decoded", "visible", "instance", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_too_many_skipped_samples_stop_the_run(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    import numpy as np

    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for i in range(6):
        profile = {"driver": "GTiff", "width": 16, "height": 16, "count": 3, "dtype": "uint16"}
        with rasterio.open(images / f"{i}.tif", "w", **profile) as file:
            file.write(np.random.default_rng(i).integers(1, 1000, (3, 16, 16)).astype("uint16"))
        if i < 3:
            (images / f"{i}.tif").write_bytes((images / f"{i}.tif").read_bytes()[:700])
    overrides = [o for o in TINY if not o.startswith("data.scene")]
    line = [
        *(sys.executable, "-m", "hybrid_patch.train", *overrides, "data=rasters", f"data.root={tmp_path / 'data'}"),
        *("trainer.steps=30", "data.on_error=skip", f"run_dir={tmp_path / 'run'}", "data.val_share=0"),
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr
    assert "data.max_skipped" in done.stderr
    run = RunDirectory(tmp_path / "run")
    assert run.status()["state"] == "failed"
    assert run.metrics()[-1]["skipped"] > 5
    assert "images/0.tif" in run.log.read_text()
