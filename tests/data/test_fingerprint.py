"""The identity of a data set: the same wherever its folder is, another when it changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from hybrid_patch.data.olmoearth import OlmoEarth
from hybrid_patch.data.rasters import Rasters
from hybrid_patch.data.synthetic import Synthetic
from hybrid_patch.errors import InputError

COMMON: dict[str, Any] = {"tile": 8, "timesteps": 1, "modalities": {}, "on_error": "raise", "max_skipped": 0.1}


def rasters(root: Path) -> Rasters:
    return Rasters(
        name="rasters",
        root=str(root),
        labels=None,
        label_classes=None,
        label_nodata=None,
        label_kind="classes",
        block=8,
        val_share=0.1,
        **COMMON,
    )


def olmoearth(root: Path, statistics: Path | None = None) -> OlmoEarth:
    folder = None if statistics is None else str(statistics)
    return OlmoEarth(name="olmoearth", root=str(root), statistics=folder, val_share=0.1, **COMMON)


def write(path: Path, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 664000, 0, -10, 5612120)}
    with rasterio.open(path, "w", driver="GTiff", count=1, height=side, width=side, dtype=np.uint8, **place) as file:
        file.write(np.ones((1, side, side), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "here"
    for number in range(3):
        write(root / f"images/{number}.tif", 8)
    (root / "index.csv").write_text("file\n0.tif\n")
    return root


def test_a_folder_that_moved_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "somewhere else"
    shutil.copytree(folder, moved)
    assert rasters(moved).fingerprint() == rasters(folder).fingerprint()
    (moved / ".cache").mkdir()
    shutil.copy(moved / "images/0.tif", moved / ".cache/0.tif")
    (moved / "notes.txt").write_text("not data")
    assert rasters(moved).fingerprint() == rasters(folder).fingerprint()


def test_every_change_of_the_folder_is_other_data(folder: Path) -> None:
    fingerprints = [rasters(folder).fingerprint()]
    write(folder / "images/0.tif", 9)
    fingerprints.append(rasters(folder).fingerprint())
    (folder / "images/1.tif").rename(folder / "images/one.tif")
    fingerprints.append(rasters(folder).fingerprint())
    (folder / "index.csv").write_text("file\n2.tif\n")
    fingerprints.append(rasters(folder).fingerprint())
    (folder / "meta.json").write_text(json.dumps({"nodata": 0}))
    fingerprints.append(rasters(folder).fingerprint())
    (folder / "labels").mkdir()
    shutil.copy(folder / "images/2.tif", folder / "labels/2.TIF")
    fingerprints.append(rasters(folder).fingerprint())
    assert len(set(fingerprints)) == len(fingerprints)
    assert all(len(digest) == 16 for digest in fingerprints)


def test_olmoearth_is_its_metadata_and_statistics(tmp_path: Path) -> None:
    (tmp_path / "sample_metadata.csv").write_text("sample_index,sentinel1\n0,1\n")
    plain = olmoearth(tmp_path).fingerprint()
    statistics = tmp_path / "norm"
    statistics.mkdir()
    (statistics / "computed.json").write_text("{}")
    with_computed = olmoearth(tmp_path, statistics).fingerprint()
    (statistics / "computed.json").rename(statistics / "predefined.json")
    with_predefined = olmoearth(tmp_path, statistics).fingerprint()
    (tmp_path / "sample_metadata.csv").write_text("sample_index,sentinel1\n0,1\n1,1\n")
    assert len({plain, with_computed, with_predefined, olmoearth(tmp_path).fingerprint()}) == 4


def test_synthetic_scenes_need_no_folder() -> None:
    scenes = Synthetic(
        name="synthetic", scenes=1, scene_size=64, scene_timesteps=2, scene_seed=0, label_kind="classes", **COMMON
    )
    assert scenes.fingerprint() == "synthetic-2"


def test_a_folder_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root=.*nowhere"):
        rasters(tmp_path / "nowhere").fingerprint()
    with pytest.raises(InputError, match=r"no sample_metadata\.csv"):
        olmoearth(tmp_path).fingerprint()
