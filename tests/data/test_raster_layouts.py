"""The layouts that people have: tiles by dates, by sensors, in any grid; a scene; a table."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.testing import assert_array_equal
from raster_folders import Array, config, expect_line, modality, ramp, whole, write
from rasterio import Affine

from hybrid_patch.data.rasters.source import RasterSource
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError

SIDE = 16
DATES = ("20210531", "2021-06-30", "2021-07-31T10-50-31")
ISO = [[31, 4, 2021], [30, 5, 2021], [31, 6, 2021]]
ZONES = ("EPSG:32631", "EPSG:32632")


def place(number: int, metres: int = 10) -> dict[str, Any]:
    """Where a tile is: every other one in another zone, none beside another."""
    return {"crs": ZONES[number % 2], "transform": Affine(metres, 0, 500000 + 1000 * number, 0, -metres, 5200000)}


def image(number: int, date: int = 0, bands: int = 2, side: int = SIDE) -> Array:
    return ramp(bands, side, side, 1000 * number + 10 * date).astype(np.int16)


def test_twelve_tiles_of_six_dates_in_two_reference_systems(tmp_path: Path) -> None:
    for number in range(12):
        for month in range(6):
            write(
                tmp_path / f"s2/t{number}/2021-{month + 1:02d}-15.tif",
                image(number, month),
                ("a", "b"),
                **place(number),
            )
    source = RasterSource(config(tmp_path))
    assert source.modalities.keys() == {"s2"}
    assert source.modalities["s2"].temporal
    splits = {split: source.indices(split) for split in ("train", "val")}
    assert [len(splits["train"]), len(splits["val"])] == [9, 3]
    for index in range(12):
        sample = whole(source, index)
        number = int(source.name(index).split("/t")[-1].split("/")[0])
        assert source.shape(index) == (SIDE, SIDE, 6)
        assert sample.timestamps[:, 1].tolist() == [0, 1, 2, 3, 4, 5]
        for month in range(6):
            assert_array_equal(sample.images["s2"][:, :, month], image(number, month).transpose(1, 2, 0))


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    "name", ["{tile}/{date}", "{tile}_{date}", "S2A_{date}_{tile}", "{date}/{tile}", "{tile}-{date}_v1"]
)
@pytest.mark.parametrize("folder", ["", "images/", "optical/"])
def test_dates_and_places_are_found_anywhere_in_a_name(tmp_path: Path, name: str, folder: str) -> None:
    for number in range(3):
        for step, date in enumerate(DATES):
            path = tmp_path / (folder + name.format(tile=f"t{number}", date=date) + ".tif")
            write(path, image(number, step), ("a", "b"), **place(number))
    source = RasterSource(config(tmp_path))
    assert [*source.modalities] == [folder.strip("/") or "images"]
    assert sorted(len(source.indices(split)) for split in ("train", "val")) == [1, 2]
    for index in range(3):
        sample = whole(source, index)
        assert sample.timestamps.tolist() == ISO
        (images,) = sample.images.values()
        assert_array_equal(np.diff(images[0, 0, :, 0]), [10, 10])


def test_products_of_one_place_are_a_series_whatever_their_satellite(tmp_path: Path) -> None:
    for step, name in enumerate(
        ("S2A_20210531T105031_N0300", "S2B_20210610T105029_N0300", "S2A_20210620T105031_N0400")
    ):
        write(tmp_path / f"images/{name}.tif", image(0, step), ("a", "b"), **place(0))
    source = RasterSource(config(tmp_path, block=8))
    assert source.shape(0)[2] == 3
    assert len(source.indices("val")) > 0


def test_five_dates_of_one_place_are_a_series(tmp_path: Path) -> None:
    for date in ("20210531", "20210630", "20210731", "20210831", "20210930"):
        write(tmp_path / f"images/{date}.tif", image(0), ("a", "b"))
    source = RasterSource(config(tmp_path, block=8))
    assert source.shape(0) == (8, 8, 5)
    samples = {split: [source.name(int(i)) for i in source.indices(split)] for split in ("train", "val")}
    assert samples["val"] == [f"{tmp_path.name}[0:8, 0:8]", f"{tmp_path.name}[8:16, 0:8]"]


def test_tiles_of_several_sensors_some_static_of_other_pixel_sizes(tmp_path: Path) -> None:
    for number in range(4):
        for month in (1, 3):
            write(tmp_path / f"S2/t{number}_2021-0{month}-01.tif", image(number, month), ("a", "b"), **place(number))
        write(tmp_path / f"S1/t{number}_2021-02-01_asc.tif", image(number, 7, 1), ("VV",), **place(number))
        write(tmp_path / f"DEM/t{number}.tif", image(number, 0, 1, SIDE // 2), ("height",), **place(number, 20))
        write(tmp_path / f"LULC/t{number}.tif", image(number, 0, 1) % 3, **place(number))
    source = RasterSource(config(tmp_path))
    assert {name: each.temporal for name, each in source.modalities.items()} == {"DEM": False, "S1": True, "S2": True}
    assert source.modalities["DEM"].gsd == 20
    assert source.class_names() == ("0", "1", "2")
    sample = whole(source, 2)
    assert sample.timestamps[:, 1].tolist() == [0, 1, 2]
    assert sample.valid["S2"].any((0, 1)).tolist() == [True, False, True]
    assert sample.valid["S1"].any((0, 1)).tolist() == [False, True, False]
    heights = image(2, 0, 1, SIDE // 2)[0]
    assert_array_equal(sample.images["DEM"][:, :, 0, 0], heights.repeat(2, 0).repeat(2, 1))
    assert sample.labels is not None
    assert_array_equal(sample.labels, image(2, 0, 1)[0] % 3)


def test_folders_of_any_name_are_modalities_that_torch_takes(tmp_path: Path) -> None:
    for number in range(2):
        for folder, bands in (("S2.L2A", 2), ("type", 1), ("élévation", 1)):
            names = tuple(f"{folder}{band}" for band in range(bands))
            write(tmp_path / f"{folder}/t{number}.tif", image(number, 0, bands), names, **place(number))
    options = config(tmp_path)
    assert sorted(open_source(options).modalities) == ["S2_L2A", "type_", "élévation"]
    with pytest.raises(InputError, match=r"data.modalities.type: not a name that torch takes; try type_"):
        open_source(config(tmp_path, modalities={"type": modality("type0")}))


def test_a_tile_may_lack_a_sensor(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"S2/t{number}.tif", image(number), ("a", "b"), **place(number))
    write(tmp_path / "DEM/t1.tif", image(1, 0, 1), ("height",), **place(1))
    source = RasterSource(config(tmp_path))
    assert [sorted(whole(source, index).images) for index in range(4)] == [["S2"], ["DEM", "S2"], ["S2"], ["S2"]]


def test_sensors_without_a_common_name_are_one_line(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"S2/t{number}.tif", image(number), ("a", "b"), **place(number))
        write(tmp_path / f"DEM/dem_{number}.tif", image(number, 0, 1), ("height",), **place(number))
    expect_line(config(tmp_path), "the files of a tile are told by their names")


def test_a_ratio_of_pixel_sizes_that_is_no_whole_number_is_one_line(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"S2/t{number}.tif", image(number), ("a", "b"), **place(number))
        write(tmp_path / f"DEM/t{number}.tif", image(number, 0, 1, 12), ("height",), **place(number))
    with pytest.raises(Exception, match="warp them to one grid"):
        whole(RasterSource(config(tmp_path)), 0)


def test_tiles_of_other_pixel_sizes_are_one_line(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"images/t{number}.tif", image(number), **place(number, 10 if number < 3 else 20))
    expect_line(config(tmp_path), "t3.tif: has pixels of 20 m, but")


def test_tiles_that_share_ground_are_on_one_side(tmp_path: Path) -> None:
    for number in range(8):
        shifted = {
            "crs": ZONES[0],
            "transform": Affine(10, 0, 500000 + 1000 * (number // 2) + 80 * (number % 2), 0, -10, 52e5),
        }
        write(tmp_path / f"images/t{number}.tif", image(number), **shifted)
    source = RasterSource(config(tmp_path))
    groups = [source.group(number) for number in range(8)]
    assert groups[::2] == groups[1::2]
    assert len(set(groups)) == 4
    sides = [{source.group(int(i)) for i in source.indices(split)} for split in ("train", "val")]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_a_single_scene_of_one_date(tmp_path: Path) -> None:
    write(tmp_path / "scene.tif", image(0, side=40), ("a", "b"))
    source = RasterSource(config(tmp_path))
    assert [*source.modalities] == ["images"]
    assert len(source.indices("val")) > 0
    assert not source.modalities["images"].temporal


def test_a_single_date_of_each_place_is_static_where_it_is_declared_so(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"s2/t{number}_2021-0{number + 1}-01.tif", image(number), ("a", "b"), **place(number))
    source = RasterSource(config(tmp_path, modalities={"s2": modality("a", "b")}))
    assert [source.shape(index) for index in range(3)] == [(SIDE, SIDE, 1)] * 3
    assert_array_equal(whole(source, 1).images["s2"][:, :, 0], image(1).transpose(1, 2, 0))


# --- tables -----------------------------------------------------------------------------------------------------------
ROWS = (
    "tile,sensor,date,path,split,group",
    "a,s2,2021-05-31,deep/x1.tif,train,g",
    "a,s2,2021-06-30,deep/x2.tif,train,g",
    "a,dem,,deep/x3.tif,train,g",
    "b,s2,2021-05-31,other/y.tif,val,h",
    "b,labels,,other/z.tif,val,h",
)


def make_table(root: Path) -> None:
    write(root / "deep/x1.tif", image(0, 0), ("a", "b"), **place(0))
    write(root / "deep/x2.tif", image(0, 1), ("a", "b"), **place(0))
    write(root / "deep/x3.tif", image(0, 2, 1), ("height",), **place(0))
    write(root / "other/y.tif", image(1, 0), ("a", "b"), **place(1))
    write(root / "other/z.tif", image(1, 0, 1) % 3, **place(1))


def check_table(source: RasterSource) -> None:
    assert source.modalities.keys() == {"s2", "dem"}
    assert source.indices("train").tolist() == [0]
    assert source.indices("val").tolist() == [1]
    assert source.shape(0) == (SIDE, SIDE, 2)
    assert source.shape(1) == (SIDE, SIDE, 1)
    labels = whole(source, 1).labels
    assert labels is not None
    assert_array_equal(labels, image(1, 0, 1)[0] % 3)


def test_a_table_of_files(tmp_path: Path) -> None:
    make_table(tmp_path)
    (tmp_path / "index.csv").write_text("\n".join(ROWS))
    check_table(RasterSource(config(tmp_path)))


def test_a_geoparquet_of_files(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    make_table(tmp_path)
    names, *rows = (line.split(",") for line in ROWS)
    table = {name: [row[i] or None for row in rows] for i, name in enumerate(names)} | {"geometry": [b""] * len(rows)}
    parquet.write_table(pyarrow.table(table), tmp_path / "index.parquet")
    check_table(RasterSource(config(tmp_path)))


@pytest.mark.parametrize("form", ["images/t{}.tif", "images\\\\t{}.tif", "t{}.tif ", "t{}.TIF", "t{}"])
def test_an_index_names_files_as_people_write_them(tmp_path: Path, form: str) -> None:
    for number in range(6):
        write(tmp_path / f"images/t{number}.tif", image(number), **place(number))
    (tmp_path / "index.csv").write_text("file\n" + "".join(form.format(number) + "\n" for number in range(6)))
    source = RasterSource(config(tmp_path))
    assert sum(len(source.indices(split)) for split in ("train", "val")) == 6
    assert all(whole(source, number).valid["images"].all() for number in range(6))


def test_an_index_beside_a_folder_elsewhere_and_names_with_dots(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"elsewhere/S2.L2A.t{number}.tif", image(number), ("a", "b"), **place(number))
    (tmp_path / "root").mkdir()
    (tmp_path / "root/index.csv").write_text("file\nS2.L2A.t0\nS2.L2A.t1.tif\nS2.L2A.t3\n")
    declared = {"s2": modality("a", "b", files=str(tmp_path / "elsewhere"))}
    source = RasterSource(config(tmp_path / "root", modalities=declared))
    assert [whole(source, index).images["s2"][0, 0, 0, 0] for index in range(3)] == [0, 1000, 3000]


def test_names_in_other_normal_forms_of_unicode_are_the_same(tmp_path: Path) -> None:
    write(tmp_path / "images/Zu\u0308rich.tif", image(0), **place(0))
    write(tmp_path / "images/Bern.tif", image(1), **place(1))
    write(tmp_path / "labels/Z\u00fcrich.tif", image(0, 0, 1) % 3, **place(0))
    (tmp_path / "index.csv").write_text("file\nZ\u00fcrich.tif\nBern.tif\n", encoding="utf-8")
    source = RasterSource(config(tmp_path))
    assert whole(source, 0).valid["images"].all()
    assert whole(source, 0).labels is not None


def test_hidden_files_and_links_in_circles(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / f"images/t{number}.tif", image(number), **place(number))
        (tmp_path / f"images/._t{number}.tif").write_bytes(b"\0\5\x16\7" + bytes(160))
    before = config(tmp_path).fingerprint()
    for name in ("latest", "current", "images/again"):
        os.symlink(tmp_path, tmp_path / name)
    source = RasterSource(config(tmp_path))
    assert sum(len(source.indices(split)) for split in ("train", "val")) == 6
    assert config(tmp_path).fingerprint() == before
    write(tmp_path / "output/map.tif", image(9))
    assert config(tmp_path).fingerprint() == before
    write(tmp_path / "images/t7.tif", image(9))
    assert config(tmp_path).fingerprint() != before


def test_modalities_of_a_first_attempt_are_found_again(tmp_path: Path) -> None:
    """What a checkpoint has of a folder that nobody has described says where each modality is."""
    for number in range(3):
        write(tmp_path / f"t{number}_20210531.tif", image(number), ("a", "b"), **place(number))
    source = RasterSource(config(tmp_path))
    again = RasterSource(config(tmp_path, modalities=dict(source.modalities)))
    assert again.modalities == source.modalities
    assert_array_equal(whole(again, 1).images["images"], whole(source, 1).images["images"])


def test_real_tiles_of_three_sensors(shared_data: Path) -> None:
    source = RasterSource(config(shared_data / "terramind_tiles", tile=64))
    assert {name: len(each.bands) for name, each in source.modalities.items()} == {"DEM": 1, "S1RTC": 2, "S2L2A": 12}
    assert [len(source.indices(split)) for split in ("train", "val")] == [3, 1]
    assert source.class_names() == tuple(map(str, range(10)))
    sample = whole(source, 0)
    assert sample.images.keys() == {"DEM", "S1RTC", "S2L2A"}
    with rasterio.open(source.name(0)) as file:
        assert_array_equal(sample.images["DEM"][:, :, 0, 0], file.read(1))
    assert modality("x").bands == ("x",)
