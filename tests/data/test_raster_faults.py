"""Folders of GeoTIFFs with mistakes and broken files: one line that names the file."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raster_folders import config, expect_line, make_series, make_tiles, modality, ramp, whole, write
from rasterio import Affine

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters.source import RasterSource
from hybrid_patch.data.source import BrokenSampleError, Window


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_series(tmp_path_factory.mktemp("series"))


# --- mistakes of the person -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,split\nt0.tif,train\n", "no column 'file'"),
        ("file,split\nt0.tif,validation\n", "line 2: split is 'validation'"),
        ("file,split,group\nt0.tif,train,7\nt1.tif,val,7\n", "group 7 is in both train and val"),
        ("file,split\nt0.tif,val\n", "no tile with the split train"),
        ("file\nt0.tif\nt0.tif\n", "t0.tif is listed twice"),
        ("file,split\nt0.tif\n", "line 2 has fewer fields"),
        ("file\n", "lists no tiles"),
    ],
)
def test_a_wrong_index_is_one_line(tiles: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "images").symlink_to(tiles / "images")
    (tmp_path / "index.csv").write_text(text)
    expect_line(config(tmp_path), message)


def test_mistakes_in_the_configuration_name_key_and_value(tiles: Path, series: Path, tmp_path: Path) -> None:
    expect_line(config(tmp_path / "nowhere"), "no such folder")
    expect_line(config(tmp_path), "data.modalities.<name>.files")
    expect_line(config(tiles, labels="truth"), "data.labels=truth: no such file")
    expect_line(config(series, labels="s2"), "no label file is called as an image is; the first is 2021-01-15.tif")
    expect_line(config(tiles, modalities={"x": modality("a")}), "data.modalities.x.files")
    expect_line(config(tiles, modalities={"x": modality("nir", files="images")}), "has no band 'nir'")
    expect_line(
        config(tiles, modalities={"x": modality("red", files="images", temporal=True)}), "have no dates in their names"
    )
    expect_line(config(series, modalities={"s2": modality("B02")}), "holds 3 dates of one place")
    mixed = {"s2": modality("B02", temporal=True, files=str(series / "s2")), "images": modality("red")}
    expect_line(config(tiles, modalities=mixed), "the files of a tile are told by their names")


def test_a_series_with_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    first = write(tmp_path / "images/2021-01-01.tif", ramp(1, 20, 20), ("a",))
    wrong = write(tmp_path / "images/2021-02-01.tif", ramp(1, 20, 21), ("a",))
    expect_line(config(tmp_path), f"{wrong}: 20×21 pixels")
    write(wrong, ramp(1, 20, 20), ("a",), transform=Affine(10, 0, 664010, 0, -10, 5612120))
    expect_line(config(tmp_path), f"but {first} has")
    write(wrong, ramp(1, 20, 20), ("b",))
    expect_line(config(tmp_path), f"{wrong}: has no band 'a'")
    wrong.rename(wrong.with_name("2021-02-31.tif"))
    expect_line(config(tmp_path), "2021-01-01.tif has a date and 2021-02-31.tif has none")
    wrong.with_name("2021-02-31.tif").rename(wrong.with_name("2021-01-01_b.tif"))
    expect_line(config(tmp_path), "has the same date")
    wrong.with_name("2021-01-01_b.tif").rename(wrong.with_name("undated.tif"))
    expect_line(config(tmp_path), "undated.tif has none")


def test_a_scene_of_one_block_has_no_validation_and_says_so(series: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = RasterSource(config(series, block=40))
    assert len(source.indices("val")) == 0
    assert len(source.indices("train")) == 2
    assert "no validation samples" in caplog.text


# --- broken files -----------------------------------------------------------------------------------------------------
def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 200] = bytes(byte ^ 0xFF for byte in content[half : half + 200])
    path.write_bytes(bytes(content))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _regrid(path: Path) -> None:
    write(path, ramp(1, 24, 25), ("a",))


def _rename_bands(path: Path) -> None:
    write(path, ramp(1, 24, 24), ("other",))


@pytest.mark.parametrize("damage", [_truncate, _flip, _empty, Path.unlink])
@pytest.mark.parametrize("victim", ["images/t1.tif", "images/t0.tif", "labels/t1.tif"])
def test_a_broken_tile_is_named_and_the_others_are_read(tmp_path: Path, victim: str, damage: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 250, (4, 64, 64), np.uint8)
    for number, image in enumerate(noise):
        place = Affine(10, 0, 664000 + 1000 * number, 0, -10, 5612120)
        write(tmp_path / f"images/t{number}.tif", image[None], ("a",), compress="deflate", transform=place)
        write(tmp_path / f"labels/t{number}.tif", image[None], compress="deflate", transform=place)
    path = tmp_path / victim
    if damage is not Path.unlink:
        damage(path)
    source = RasterSource(config(tmp_path))
    if damage is Path.unlink:
        damage(path)  # After the look at the folder: the file goes while the run is on.
        source = pickle.loads(pickle.dumps(source))  # Without the files that were open already.
    broken = int(victim[-5])
    for number in range(4):
        if number == broken:
            with pytest.raises(BrokenSampleError, match=victim.replace(".", r"\.")) as caught:
                whole(source, number)
            assert "\n" not in str(caught.value)
        else:
            np.testing.assert_array_equal(whole(source, number).images["images"][:, :, 0, 0], noise[number])


@pytest.mark.parametrize(("damage", "message"), [(_regrid, "warp them to one grid"), (_rename_bands, "no band 'a'")])
def test_a_tile_unlike_the_others_is_broken(tmp_path: Path, damage: Any, message: str) -> None:
    for folder in ("images", "labels"):
        for number in range(2):
            write(tmp_path / f"{folder}/t{number}.tif", ramp(1, 24, 24) % 5, ("a",))
    victim = "labels/t1.tif" if damage is _regrid else "images/t1.tif"
    damage(tmp_path / victim)
    with pytest.raises(BrokenSampleError, match=message):
        whole(RasterSource(config(tmp_path)), 1)


def test_a_tile_that_index_csv_lists_and_is_not_there_is_broken(tiles: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(tiles / "images")
    (tmp_path / "index.csv").write_text("file\nt0.tif\ngone.tif\n")
    with pytest.raises(BrokenSampleError, match=r"gone\.tif"):
        RasterSource(config(tmp_path)).shape(1)


def test_a_broken_date_is_named_only_by_reads_that_need_it(tmp_path: Path) -> None:
    for month in (1, 2, 3):
        write(tmp_path / f"images/2021-0{month}-01.tif", ramp(1, 32, 32))
    _empty(tmp_path / "images/2021-01-01.tif")
    with pytest.raises(BrokenSampleError, match="2021-01-01"):  # Every window of the statistics needs it.
        RasterSource(config(tmp_path))
    images = Modality(bands=("a",), band_sets=(("a",),), temporal=True, gsd=10.0, mean=(0.0,), std=(1.0,))
    source = RasterSource(config(tmp_path, modalities={"images": images}))
    assert source.read(0, Window(0, 0, 4, 4), np.array([1, 2])).valid["images"].all()
    with pytest.raises(BrokenSampleError, match="2021-01-01"):
        source.read(0, Window(0, 0, 4, 4), np.array([0, 1]))
