"""A map keeps what places its scene, and takes one tile, date or file where there are several."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.testing import assert_allclose, assert_array_equal
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from scenes import call, make_run, read, values, write

SIDE = 40
UTM = Affine(10, 0, 500000, 0, -10, 5200000)
ROTATED = UTM @ Affine.rotation(20)
POINTS = [GroundControlPoint(r, c, 15 + c * 1e-4, 47 - r * 1e-4, 0) for r in (0, SIDE) for c in (0, SIDE)]
LOCAL = 'LOCAL_CS["RGF93 v1 / Lambert-93",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
PLACES: dict[str, dict[str, Any]] = {
    "control points": {"crs": CRS.from_epsg(4326), "transform": None, "gcps": POINTS},
    "a transform alone": {"crs": None, "transform": UTM},
    "a rotation": {"crs": "EPSG:32633", "transform": ROTATED},
    "a local system": {"crs": LOCAL, "transform": UTM},
    "no place": {"crs": None, "transform": None},
    "a projection of nobody's": {"crs": "+proj=laea +lat_0=10 +lon_0=-81 +ellps=WGS84 +units=m", "transform": UTM},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "untrained_tiny")


@pytest.mark.sample(4)
@pytest.mark.parametrize("cog", ["true", "false"])
@pytest.mark.parametrize("kind", PLACES)
def test_a_map_is_where_its_scene_is(run: Path, tmp_path: Path, kind: str, cog: str) -> None:
    scene = write(tmp_path / "2024-05-31.tif", values(SIDE, SIDE), **PLACES[kind])
    output = tmp_path / "map.tif"
    code, stderr = call(f"run={run}", f"input={scene}", f"output={output}", "dims=3", f"cog={cog}", "resolution=any")
    assert code == 0, stderr
    with rasterio.open(scene) as before, rasterio.open(output) as after:
        assert after.crs == before.crs
        assert_allclose(tuple(after.transform), tuple(before.transform), rtol=1e-12)
        assert after.gcps[1] == before.gcps[1]
        rows = [[(p.row, p.col, p.x, p.y) for p in file.gcps[0]] for file in (before, after)]
        assert rows[0] == rows[1]


def test_control_points_of_a_map_of_patches(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "patch.output_patch_size=2")
    scene = write(tmp_path / "2024-05-31.tif", values(SIDE, SIDE), **PLACES["control points"])
    code, stderr = call(f"run={run}", f"input={scene}", f"output={tmp_path / 'map.tif'}", "dims=3", "grid=patch")
    assert code == 0, stderr
    with rasterio.open(tmp_path / "map.tif") as file:
        assert {(p.row, p.col) for p in file.gcps[0]} == {(r, c) for r in (0, SIDE // 2) for c in (0, SIDE // 2)}


def test_one_ground_with_an_offset_from_one_date_on(run: Path, tmp_path: Path) -> None:
    image, maps = values(SIDE, SIDE), []
    for year, offset in ((2021, 0), (2022, 1000)):
        scene = write(tmp_path / f"{year}-06-01.tif", image + np.int16(offset))
        with rasterio.open(scene, "r+") as file:
            file.offsets = (-float(offset),) * file.count
        output = tmp_path / f"map{year}.tif"
        assert call(f"run={run}", f"input={scene}", f"output={output}", "dims=full", "date=2021-06-01")[0] == 0
        maps.append(read(output))
    assert_array_equal(maps[0], maps[1])


def test_values_far_from_the_training_are_said(run: Path, tmp_path: Path) -> None:
    options = (f"run={run}", "dims=3", "date=2021-06-01")
    for factor, said in ((1, False), (12, True), (1e-4, True)):
        image = (values(SIDE, SIDE) * factor).astype(np.float32)
        scene = write(tmp_path / f"{factor}.tif", image)
        code, stderr = call(*options, f"input={scene}", f"output={tmp_path / f'map{factor}.tif'}")
        assert code == 0, stderr
        assert ("warning: sentinel2_l2a: normalised values of" in stderr) == said


def test_a_folder_of_tiles_needs_the_name_of_one(run: Path, tmp_path: Path) -> None:
    for number in range(3):
        place = Affine(10, 0, 500000 + 1000 * number, 0, -10, 5200000)
        for month in (5, 6):
            image = values(SIDE, SIDE, 10 * number + month)
            write(tmp_path / f"scenes/t{number}_2024-0{month}-01.tif", image, crs="EPSG:32633", transform=place)
    options = (f"run={run}", f"input={tmp_path / 'scenes'}", f"output={tmp_path / 'map.tif'}", "dims=3")
    assert "holds 3 tiles; name one: tile=t0" in call(*options)[1]
    assert "tile=t7: not in" in call(*options, "tile=t7")[1]
    code, stderr = call(*options, "tile=t1")
    assert code == 0, stderr
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.transform.c == 501000
        assert file.tags()["EMBEDDING_DATES"] == "2024-05-01, 2024-06-01"
