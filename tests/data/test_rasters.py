"""Folders of GeoTIFFs: what is found in them, and exact window reads."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_folders import config, make_series, make_tiles, modality, ramp, whole, write
from rasterio import Affine

from hybrid_patch.data.rasters.geotiff import RasterFiles
from hybrid_patch.data.rasters.source import RasterSource
from hybrid_patch.data.source import UNLABELLED, Window


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_series(tmp_path_factory.mktemp("series"))


# --- what is found ----------------------------------------------------------------------------------------------------
def test_tiles_are_found_with_bands_gsd_and_labels(tiles: Path) -> None:
    source = RasterSource(config(tiles))
    images = source.modalities["images"]
    assert (images.bands, images.band_sets, images.temporal, images.gsd) == (
        ("blue", "green", "red"),
        (("blue", "green", "red"),),
        False,
        10.0,
    )
    assert source.class_names() == ("0", "1", "2")
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
    images = RasterSource(config(tmp_path)).modalities["images"]
    assert (images.bands, images.gsd) == (("x", "y"), 30.0)


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
    assert source.class_names() == names
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
    for name, each in source.modalities.items():
        chosen = steps if each.temporal else [0]
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
    assert len(_open_files(tiles)) == 2
    copied = pickle.loads(pickle.dumps(files))
    assert len(_open_files(tiles)) == 2
    copied.header(path)
    assert len(_open_files(tiles)) == 3


def _open_files(folder: Path) -> list[str]:
    targets = [os.path.realpath(link.path) for link in os.scandir("/proc/self/fd")]
    return [target for target in targets if target.startswith(f"{folder}/images")]


# --- real data --------------------------------------------------------------------------------------------------------
def test_real_tiles_need_no_options(shared_data: Path) -> None:
    source = RasterSource(config(shared_data / "landcover_tiles"))
    assert len(source.indices("train")) == 189
    assert len(source.indices("val")) == 57
    groups = [{source.group(int(i)) for i in source.indices(split)} for split in ("train", "val")]
    assert not groups[0] & groups[1]
    assert len(source.class_names()) == 11
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
    assert source.class_names()[0] == "no data"
    assert UNLABELLED in labels
    assert 0 not in labels


def test_real_series_of_several_sensors_needs_no_options(shared_data: Path) -> None:
    source = RasterSource(config(shared_data / "belgium_series", labels="cropland.tif"))
    assert {name: len(m.bands) for name, m in source.modalities.items()} == {"s1": 2, "s2": 9, "elevation": 1}
    sample = whole(source, 3)
    assert sample.valid["s2"].any((0, 1)).tolist() == [True, False, False, *[True] * 9]
    assert sample.valid["s1"].all()
    assert source.class_names() == ("0", "1")
    assert source.modalities["s2"].mean is not None
    assert max(source.modalities["s2"].mean) < 5000  # Nodata, 65535, has not been counted.
    subset = {"s2": modality("b08", "B04", temporal=True)}
    assert whole(RasterSource(config(shared_data / "belgium_series", modalities=subset)), 0).images["s2"].shape[3] == 2


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    root = make_tiles(tmp_path)
    for number in range(8):
        heights = ramp(1, 24, 20).astype(np.float32) / 7
        heights[0, 0, :3] = (np.nan, -1, 255)
        place = Affine(10, 0, 664000 + 200 * number, 0, -10, 5612120)
        write(root / f"labels/t{number}.tif", heights, nodata=-1, transform=place)
    (root / "labels/t5.tif").unlink()
    source = RasterSource(config(root, label_kind="numbers", label_nodata=255))
    assert source.class_names() == ()
    first, without = whole(source, 0), whole(source, 5)
    assert first.labels is None
    assert first.numbers is not None
    assert without.numbers is not None
    assert np.isnan(first.numbers[0, :3]).all()
    assert np.array_equal(first.numbers[1:], (ramp(1, 24, 20).astype(np.float32) / 7)[0, 1:])
    assert np.isnan(without.numbers).all()
    assert whole(RasterSource(config(root, labels=None)), 0).numbers is None
    lines = list(config(root, label_kind="numbers", label_classes=("a",)).problems())
    assert lines == ["data.label_classes=['a']: data.label_kind=numbers has no classes; try null"]
