"""Trainings on files as people have them: labels that nobody needs, files that change, a folder that moves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from building import TINY
from launching import variables
from raster_folders import ramp, write
from rasterio import Affine

MODEL = [
    word for word in TINY if not word.startswith(("data.scene", "data.timesteps", "model.encoder=", "evaluation="))
]
QUICK = (*MODEL, "model.encoder={width:64,depth:1,heads:4,mlp_ratio:2.0}", "data=rasters", "data.tile=16")
EVALUATED = ("evaluation.tiles=2", "evaluation.train_pixels=60", "evaluation.knn_pixels=0", "evaluation.baselines=[]")


def run(folder: Path, *words: str, timeout: int = 240) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "hybrid_patch", *words],
        cwd=folder,
        env=variables(folder, {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def make(root: Path, labels: int = 1) -> Path:
    """Six tiles, and labels of some bands."""
    for number in range(6):
        place = {"transform": Affine(10, 0, 500000 + 1000 * number, 0, -10, 5200000), "crs": "EPSG:32633"}
        write(root / f"images/t{number}.tif", ramp(3, 32, 32, 7 * number).astype(np.float32), ("a", "b", "c"), **place)
        write(root / f"labels/t{number}.tif", (ramp(labels, 32, 32) % 3).astype(np.uint8), **place)
    return root


def statistics(folder: Path) -> tuple[float, ...]:
    path = sorted((folder / "checkpoints").glob("*.pt"))[-1]
    return tuple(torch.load(path, weights_only=True)["modalities"]["images"]["mean"])


@pytest.mark.full
def test_labels_are_read_for_an_evaluation_and_never_without(tmp_path: Path) -> None:
    make(tmp_path / "tiles", labels=3)
    words = (*QUICK, "data.root=tiles", "trainer.steps=2")
    done = run(tmp_path, "train", "run_dir=run", *words, "evaluation=none")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "train", "run_dir=other", *words, *EVALUATED)
    assert done.returncode == 2
    assert "t0.tif: labels of 3 bands" in done.stderr.splitlines()[-1]


@pytest.mark.full
def test_a_resumed_run_has_its_own_statistics_and_finds_data_that_have_moved(tmp_path: Path) -> None:
    make(tmp_path / "tiles")
    words = (*QUICK, "data.root=tiles", "data.on_error=skip", "data.max_skipped=1", "evaluation=none")
    assert (
        run(tmp_path, "train", "run_dir=run", *words, "trainer.steps=4", "trainer.checkpoint_every=2").returncode == 0
    )
    before = statistics(tmp_path / "run")
    (tmp_path / "run/checkpoints/step_000000004.pt").unlink()
    status = json.loads((tmp_path / "run/status.json").read_text())
    (tmp_path / "run/status.json").write_text(json.dumps({**status, "state": "preempted"}))
    broken = tmp_path / "tiles/images/t3.tif"
    broken.write_bytes(bytes(broken.stat().st_size))
    (tmp_path / "tiles").rename(tmp_path / "moved")
    done = run(tmp_path, "resume", "run")
    assert done.returncode == 2
    assert "data.root=tiles: there is no such folder; root=FOLDER says where the data are now" in done.stderr
    done = run(tmp_path, "resume", "run", "root=moved")
    assert done.returncode == 0, done.stderr
    assert "going on after step 2" in done.stderr
    assert statistics(tmp_path / "run") == before
    data = json.loads((tmp_path / "run/run.json").read_text())["data"]
    assert data["samples"] == {"train": 5, "val": 1}


@pytest.mark.full
def test_tiles_of_three_sensors_are_trained_on_evaluated_and_mapped(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "terramind_tiles"
    words = (*QUICK, f"data.root={root}", "data.labels=LULC", "trainer.steps=4", *EVALUATED)
    done = run(tmp_path, "train", "run_dir=run", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/pictures/data.png").exists()
    done = run(tmp_path, "evaluate", "run", *EVALUATED)
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "embed", "run", f"{root}", "map.tif", "dims=3", "tile=637U_59R_1_3")
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "map.tif") as file, rasterio.open(root / "S2L2A/637U_59R_1_3.tif") as scene:
        assert file.crs == scene.crs
        assert tuple(file.transform) == pytest.approx(tuple(scene.transform))
        assert file.tags()["EMBEDDING_MODALITIES"] == "DEM, S1RTC, S2L2A"
        assert np.isfinite(file.read()).all()
