"""Folders of GeoTIFFs: what is found in them, exact window reads, splits without shared ground, broken files."""

import json
import multiprocessing
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning

from hybrid_patch.config.schema import Rasters
from hybrid_patch.data.modality import Modality
from hybrid_patch.data.raster_files import RasterFiles
from hybrid_patch.data.rasters import RasterSource
from hybrid_patch.data.sample import UNLABELLED, BrokenSampleError, Sample, Window
from hybrid_patch.data.split import hold_out, split_blocks
from hybrid_patch.errors import InputError

Array = np.ndarray


def config(root: Path, **changes: Any) -> Rasters:
    values: dict[str, Any] = {
        "name": "rasters",
        "root": str(root),
        "tile": 16,
        "timesteps": 4,
        "modalities": {},
        "on_error": "raise",
        "max_skipped": 0.1,
        "labels": None,
        "label_classes": None,
        "label_nodata": None,
        "block": 16,
        "val_share": 0.25,
    }
    return Rasters(**values | changes)


def modality(*bands: str, temporal: bool = False, files: str | None = None) -> Modality:
    return Modality(bands=bands, band_sets=(bands,), temporal=temporal, gsd=10.0, files=files)


def write(path: Path, image: Array, names: tuple[str, ...] = (), **profile: Any) -> Path:
    """Write `[C, H, W]` as a GeoTIFF in UTM zone 31 (unless the profile says otherwise)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    place: dict[str, Any] = {"crs": "EPSG:32631", "transform": Affine(10, 0, 664000, 0, -10, 5612120)}
    size = {"count": count, "height": height, "width": width, "dtype": image.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **size | place | profile) as file:
            file.write(image)
            for number, name in enumerate(names, 1):
                file.set_band_description(number, name)
    return path


def ramp(bands: int, height: int, width: int, offset: int = 0) -> Array:
    """An image of which no two values are equal."""
    return np.arange(offset, offset + bands * height * width, dtype=np.int32).reshape(bands, height, width)


def whole(source: RasterSource, index: int) -> Sample:
    height, width, length = source.shape(index)
    return source.read(index, Window(0, 0, height, width), np.arange(length))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tiles of 24 × 20 pixels with labels."""
    root = tmp_path_factory.mktemp("tiles")
    for number in range(8):
        write(root / f"images/t{number}.tif", ramp(3, 24, 20, number), ("blue", "green", "red"))
        write(root / f"labels/t{number}.tif", np.full((1, 24, 20), number % 3, np.uint8), nodata=255)
    return root


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optical and radar series on different dates, with a static layer and labels, 40 × 52 pixels."""
    root = tmp_path_factory.mktemp("series")
    for month in (1, 2, 4):
        write(root / f"s2/2021-0{month}-15.tif", ramp(2, 40, 52, 10**5 * month), ("B02", "B03"), nodata=10**5)
    for month in (2, 3):
        write(root / f"s1/2021-0{month}-15_asc.tif", ramp(1, 40, 52).astype(np.float32), ("VV",))
    write(root / "height.tif", ramp(1, 40, 52))
    write(root / "labels.tif", (ramp(1, 40, 52) % 4).astype(np.uint8))
    return root


# --- what is found ----------------------------------------------------------------------------------------------------
def test_tiles_are_found_with_bands_gsd_and_labels(tiles: Path) -> None:
    source = RasterSource(config(tiles))
    found = source.modalities["images"]
    assert (found.bands, found.band_sets, found.temporal, found.gsd) == (
        ("blue", "green", "red"),
        (("blue", "green", "red"),),
        False,
        10.0,
    )
    assert source.classes == ("0", "1", "2")
    sample = whole(source, 4)
    assert source.name(4).endswith("t4.tif")
    np.testing.assert_array_equal(sample.images["images"][:, :, 0], np.moveaxis(ramp(3, 24, 20, 4), 0, -1))
    assert sample.labels is not None
    assert np.unique(sample.labels).tolist() == [1]


def test_series_is_found_with_all_its_modalities_on_one_axis_of_time(series: Path) -> None:
    source = RasterSource(config(series))
    assert {name: m.temporal for name, m in source.modalities.items()} == {"s1": True, "s2": True, "height": False}
    sample = whole(source, 0)
    assert sample.timestamps.tolist() == [[15, 0, 2021], [15, 1, 2021], [15, 2, 2021], [15, 3, 2021]]
    # The first pixel of January is nodata (100000); March has no optical image, January and April no radar.
    assert sample.valid["s2"][1, 1].tolist() == [True, True, False, True]
    assert sample.valid["s2"][0, 0].tolist() == [False, True, False, True]
    assert sample.valid["s1"][1, 1].tolist() == [False, True, True, False]
    assert sample.valid["height"].shape == (16, 16, 1)
    assert sample.latlon == pytest.approx([50.63, 5.32], abs=0.02)


def test_bands_come_from_meta_json_or_are_numbered(tmp_path: Path) -> None:
    write(tmp_path / "images/a.tif", ramp(2, 8, 8), crs=None, transform=None)
    assert RasterSource(config(tmp_path)).modalities["images"].bands == ("band_1", "band_2")
    (tmp_path / "meta.json").write_text(json.dumps({"bands": ["x", "y"], "resolution_m": 30}))
    found = RasterSource(config(tmp_path)).modalities["images"]
    assert (found.bands, found.gsd) == (("x", "y"), 30.0)


def test_gsd_of_degrees_is_taken_at_the_latitude(tmp_path: Path) -> None:
    step = 0.001
    place = {"crs": "EPSG:4326", "transform": Affine(step, 0, 5, 0, -step, 60 + 4 * step)}
    write(tmp_path / "images/a.tif", ramp(1, 8, 8), **place)
    # At 60° a degree of longitude is half as long as one of latitude.
    assert RasterSource(config(tmp_path)).modalities["images"].gsd == pytest.approx(111.32 * 0.75, rel=1e-3)


def test_declared_bands_are_matched_by_name(tiles: Path) -> None:
    source = RasterSource(config(tiles, modalities={"optical": modality("RED", "blue", files="images")}))
    image = whole(source, 0).images["optical"][:, :, 0]
    np.testing.assert_array_equal(image, np.moveaxis(ramp(3, 24, 20)[[2, 0]], 0, -1))


def test_declared_file_without_names_is_taken_in_order(series: Path) -> None:
    source = RasterSource(config(series, modalities={"dem": modality("metres", files="height.tif")}))
    assert source.shape(0) == (16, 16, 1)
    assert whole(source, 0).images.keys() == {"dem"}


def test_labels_are_no_modality_and_no_data_is_no_label(series: Path, tmp_path: Path) -> None:
    names = ("No data", "a", "b")
    source = RasterSource(config(series, label_classes=names, label_nodata=2))
    labels = whole(source, 0).labels
    assert source.classes == names
    # 0 is named 'no data', 2 is declared, 3 is beyond the names.
    assert labels is not None
    assert np.unique(labels).tolist() == [UNLABELLED, 1]
    other = RasterSource(config(series, labels="height.tif", label_classes=names))
    assert "height" not in other.modalities
    assert "labels" not in other.modalities


def test_nodata_of_meta_json_nan_and_mask_bands(tmp_path: Path) -> None:
    image = np.ones((2, 8, 8), np.float32)
    image[0, 0, 0], image[1, 0, 1], image[0, 0, 2] = np.nan, -9.0, np.inf
    path = write(tmp_path / "images/a.tif", image)
    (tmp_path / "meta.json").write_text(json.dumps({"nodata": -9}))
    mask = np.full((8, 8), 255, np.uint8)
    mask[7, 7] = 0
    with rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    sample = whole(RasterSource(config(tmp_path)), 0)
    missing = np.argwhere(~sample.valid["images"][:, :, 0]).tolist()
    assert missing == [[0, 0], [0, 1], [0, 2], [7, 7]]
    assert not sample.images["images"][~sample.valid["images"]].any()


# --- reading ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def series_source(series: Path) -> RasterSource:
    return RasterSource(config(series))


@given(data=st.data())
@settings(deadline=None)
def test_a_window_is_the_same_part_of_the_whole(series_source: RasterSource, data: st.DataObject) -> None:
    source = series_source
    index = data.draw(st.sampled_from(range(len(source.indices("train")) + len(source.indices("val")))))
    height, width, length = source.shape(index)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    steps = np.array(sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1))))
    part, full = source.read(index, Window(top, left, rows, columns), steps), whole(source, index)
    area = (slice(top, top + rows), slice(left, left + columns))
    for name, found in source.modalities.items():
        chosen = steps if found.temporal else [0]
        np.testing.assert_array_equal(part.images[name], full.images[name][area][:, :, chosen])
        np.testing.assert_array_equal(part.valid[name], full.valid[name][area][:, :, chosen])
        assert part.images[name].dtype == np.float32
    np.testing.assert_array_equal(part.timestamps, full.timestamps[steps])
    assert part.labels is not None
    assert full.labels is not None
    np.testing.assert_array_equal(part.labels, full.labels[area])


def _sum_of(source: RasterSource) -> float:
    return float(sum(image.sum() for image in whole(source, 1).images.values()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_source_reads_the_same_in_other_processes(series: Path, method: str) -> None:
    source = RasterSource(config(series))
    here = _sum_of(source)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_sum_of, [source] * 4, chunksize=1) == [here] * 4


def test_few_files_stay_open(tiles: Path) -> None:
    files = RasterFiles(capacity=2)
    for path in sorted((tiles / "images").iterdir()):
        assert files.header(path).height == 24
    assert len(files._open) == 2
    assert len(pickle.loads(pickle.dumps(files))._open) == 0


# --- splits -----------------------------------------------------------------------------------------------------------
@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 40), st.floats(0, 1))
@settings(deadline=None)
def test_blocks_cover_the_scene_and_no_pixel_is_in_both_splits(
    height: int, width: int, side: int, share: float
) -> None:
    blocks, val, groups = split_blocks(height, width, side, share)
    times = np.zeros((2, height, width), int)
    owner = np.full((height, width), -1)
    for block, held_out, group in zip(blocks, val, groups, strict=True):
        assert (block.height, block.width) == (min(side, height), min(side, width))
        area = (slice(block.top, block.top + block.height), slice(block.left, block.left + block.width))
        times[int(held_out)][area] += 1
        assert np.isin(owner[area], [-1, group]).all(), "blocks that overlap are one group"
        owner[area] = group
    assert ((times > 0).sum(0) == 1).all()
    fits = share > 0 and max(height, width) >= 2 * side
    assert val.any() == fits
    assert not val.all()


@given(st.sets(st.text(max_size=5), min_size=1, max_size=40), st.floats(0, 1))
@settings(deadline=None)
def test_held_out_groups_are_near_the_share(groups: set[str], share: float) -> None:
    held_out = hold_out(sorted(groups), share)
    assert held_out == hold_out(sorted(groups, reverse=True), share)
    assert held_out < groups
    if share > 0 and len(groups) > 1:
        assert len(held_out) >= 1
        assert abs(len(held_out) - share * len(groups)) <= 1


def test_index_csv_decides_splits_and_groups(tiles: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    root.mkdir()
    (root / "images").symlink_to(tiles / "images")
    rows = ["t0.tif,train,a,x", "t5.tif,val,b,", "t2.tif,train,a,", "t1.tif,test,c,"]
    (root / "index.csv").write_text("\n".join(["file,split,group,note", *rows]))
    source = RasterSource(config(root))
    assert source.indices("train").tolist() == [0, 2]
    assert source.indices("val").tolist() == [1]
    assert source.group(0) == source.group(2) != source.group(1)
    assert source.classes == ()
    assert whole(source, 0).labels is None


def test_groups_without_splits_stay_together(tiles: Path, tmp_path: Path) -> None:
    root = tmp_path
    (root / "images").symlink_to(tiles / "images")
    (root / "index.csv").write_text("group,file\n" + "".join(f"g{i // 2},t{i}.tif\n" for i in range(8)))
    source = RasterSource(config(root))
    assert len(source.indices("val")) == 2
    sides = [{source.group(int(i)) for i in source.indices(split)} for split in ("train", "val")]
    assert not sides[0] & sides[1]


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


def expect_line(given_config: Rasters, message: str) -> None:
    with pytest.raises(InputError) as caught:
        RasterSource(given_config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_configuration_name_key_and_value(tiles: Path, series: Path, tmp_path: Path) -> None:
    expect_line(config(tmp_path / "nowhere"), "no such folder")
    expect_line(config(tmp_path), "data.modalities.<name>.files")
    expect_line(config(tiles, labels="truth"), "data.labels=truth: no such file")
    expect_line(config(series, labels="s2"), "data.labels=s2: must be one file")
    expect_line(config(tiles, modalities={"x": modality("a")}), "data.modalities.x.files")
    expect_line(config(tiles, modalities={"x": modality("nir", files="images")}), "t0.tif: has no band 'nir'")
    expect_line(config(tiles, modalities={"x": modality("red", files="images", temporal=True)}), "must be false")
    expect_line(config(series, modalities={"s2": modality("B02")}), "temporal: must be true")
    mixed = {"s2": modality("B02", temporal=True, files=str(series / "s2")), "images": modality("red")}
    expect_line(config(tiles, modalities=mixed), "either all tiles or all of one scene")


def test_a_series_with_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    first = write(tmp_path / "images/2021-01-01.tif", ramp(1, 20, 20), ("a",))
    wrong = write(tmp_path / "images/2021-02-01.tif", ramp(1, 20, 21), ("a",))
    expect_line(config(tmp_path), f"{wrong}: 20×21 pixels")
    write(wrong, ramp(1, 20, 20), ("a",), transform=Affine(10, 0, 664010, 0, -10, 5612120))
    expect_line(config(tmp_path), f"but {first} has")
    write(wrong, ramp(1, 20, 20), ("b",))
    expect_line(config(tmp_path), f"{wrong}: has no band 'a'")
    wrong.rename(wrong.with_name("2021-02-31.tif"))
    expect_line(config(tmp_path), "2021-02-31, which is no date")
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
        write(tmp_path / f"images/t{number}.tif", image[None], ("a",), compress="deflate")
        write(tmp_path / f"labels/t{number}.tif", image[None], compress="deflate")
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


@pytest.mark.parametrize(("damage", "message"), [(_regrid, "not on the grid"), (_rename_bands, "no band 'a'")])
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


# --- real data --------------------------------------------------------------------------------------------------------
def test_real_tiles_need_no_options(shared_data: Path) -> None:
    source = RasterSource(config(shared_data / "landcover_tiles"))
    assert len(source.indices("train")) == 189
    assert len(source.indices("val")) == 57
    groups = [{source.group(int(i)) for i in source.indices(split)} for split in ("train", "val")]
    assert not groups[0] & groups[1]
    assert len(source.classes) == 11
    assert source.modalities["images"].gsd == 30
    assert source.modalities["images"].bands[4] == "nir"
    labels = whole(source, 0).labels
    assert labels is not None
    assert labels.min() >= 0


def test_real_optical_series_needs_no_options(shared_data: Path) -> None:
    source = RasterSource(config(shared_data / "slovenia_series", block=32))
    assert source.modalities["images"].bands[-1] == "B12"
    assert [source.shape(i) for i in range(2)] == [(32, 32, 5)] * 2
    read = [whole(source, int(i)).labels for i in source.indices("train")]
    labels = np.stack([label for label in read if label is not None])
    assert len(labels) == len(read)
    assert source.classes[0] == "no data"
    assert UNLABELLED in labels
    assert 0 not in labels


def test_real_series_of_several_sensors_needs_no_options(shared_data: Path) -> None:
    source = RasterSource(config(shared_data / "belgium_series", labels="cropland.tif"))
    assert {name: len(m.bands) for name, m in source.modalities.items()} == {"s1": 2, "s2": 9, "elevation": 1}
    sample = whole(source, 3)
    assert sample.valid["s2"].any((0, 1)).tolist() == [True, False, False, *[True] * 9]
    assert sample.valid["s1"].all()
    assert source.classes == ("0", "1")
    assert source.modalities["s2"].mean is not None
    assert max(source.modalities["s2"].mean) < 5000  # Nodata, 65535, has not been counted.
    subset = {"s2": modality("b08", "B04", temporal=True)}
    assert whole(RasterSource(config(shared_data / "belgium_series", modalities=subset)), 0).images["s2"].shape[3] == 2
