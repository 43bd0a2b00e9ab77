"""The OlmoEarth layout: packed series, missing modalities, splits, given statistics, broken files."""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from olmoearth_folder import LENGTH, MAP, MODALITIES, S2, SIDE, config, index, make_folder, modality, whole, write

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.olmoearth.sample_file import MISSING, read_packed
from hybrid_patch.data.olmoearth.source import WORLDCOVER, OlmoEarthSource
from hybrid_patch.data.olmoearth.tables import with_given_statistics
from hybrid_patch.data.source import UNLABELLED, BrokenSampleError, Window
from hybrid_patch.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


# --- reading ----------------------------------------------------------------------------------------------------------
def test_a_sample_is_scattered_and_absent_modalities_are_absent(folder: Path) -> None:
    source = OlmoEarthSource(config(folder))
    sample = whole(source, 1)
    assert source.name(1).endswith("sample_1.h5")
    assert source.shape(1) == (SIDE, SIDE, LENGTH)
    assert sample.timestamps.tolist() == [[1, 8, 2021], [1, 9, 2021], [1, 10, 2021], [1, 11, 2021]]
    assert sample.valid["sentinel2_l2a"].all((0, 1)).tolist() == [True, False, True, True]
    assert sample.valid["sentinel1"].any((0, 1)).tolist() == [False, True, True, False]
    assert sample.images["srtm"].shape == (SIDE, SIDE, 1, 1)
    assert sample.latlon == pytest.approx([50.5, 5.5])
    with h5py.File(source.name(1)) as file:
        packed = file["sentinel2_l2a"][()]
    np.testing.assert_array_equal(sample.images["sentinel2_l2a"][:, :, [0, 2, 3]], packed)
    assert not sample.images["sentinel2_l2a"][:, :, 1].any()
    assert whole(source, 0).images.keys() == {"sentinel2_l2a", "srtm"}


@given(data=st.data(), timesteps=st.lists(st.booleans(), min_size=1, max_size=8))
@settings(deadline=None)
def test_reading_packed_series_is_scattering_them_whole(data: st.DataObject, timesteps: list[bool]) -> None:
    """Any window and any timesteps of a packed series, against the plain way: scatter all of it, then index."""
    height, width, mask = 5, 6, np.array(timesteps)
    rng = np.random.default_rng(len(timesteps))
    packed = rng.integers(1, 100, (height, width, mask.sum(), 3)).astype(np.float32)
    for gap in (MISSING, np.nan):
        packed[rng.random(packed.shape) < 0.05] = gap
    full = np.full((height, width, len(mask), 3), MISSING, np.float32)
    full[:, :, mask] = packed
    valid = (np.isfinite(full) & (full != MISSING)).all(-1)
    full[~valid] = 0
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    steps = np.array(sorted(data.draw(st.sets(st.integers(0, len(mask) - 1), min_size=1))))
    area = (slice(top, top + window.height), slice(left, left + window.width))
    images, read_mask = read_packed(packed, window, mask, steps, {})
    np.testing.assert_array_equal(images, full[area][:, :, steps])
    np.testing.assert_array_equal(read_mask, valid[area][:, :, steps])


def test_a_window_is_the_same_part_of_the_whole(folder: Path) -> None:
    source = OlmoEarthSource(config(folder))
    full, part = whole(source, 5), source.read(5, Window(3, 4, 7, 9), np.array([1, 3]))
    area = (slice(3, 10), slice(4, 13))
    for name in full.images:
        steps = [1, 3] if source.modalities[name].temporal else [0]
        np.testing.assert_array_equal(part.images[name], full.images[name][area][:, :, steps])
        np.testing.assert_array_equal(part.valid[name], full.valid[name][area][:, :, steps])
    assert full.labels is not None
    np.testing.assert_array_equal(part.labels, full.labels[area])
    assert part.timestamps.tolist() == [[1, 9, 2021], [1, 11, 2021]]


@pytest.mark.parametrize("declared", [MODALITIES, MODALITIES | {"worldcover": MAP}])
def test_labels_are_worldcover_classes_declared_or_not(folder: Path, declared: dict[str, Modality]) -> None:
    source = OlmoEarthSource(config(folder, declared))
    labels = whole(source, 0).labels
    assert source.class_names() == tuple(WORLDCOVER.values())
    assert labels is not None
    assert labels.reshape(-1)[:13].tolist() == [*range(11), UNLABELLED, UNLABELLED]
    if "worldcover" in declared:
        channels, valid = MAP.normalise(whole(source, 0).images["worldcover"], whole(source, 0).valid["worldcover"])
        np.testing.assert_array_equal(channels[:, :, 0].argmax(-1)[valid[..., 0]], labels[valid[..., 0]])


def test_without_worldcover_there_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path, 0, {"sentinel2_l2a": [True] * LENGTH})
    index(tmp_path, ["0,1"], "sentinel2_l2a")
    source = OlmoEarthSource(config(tmp_path, {"sentinel2_l2a": MODALITIES["sentinel2_l2a"]}))
    assert source.class_names() == ()
    assert whole(source, 0).labels is None


def test_a_source_can_be_sent_to_another_process(folder: Path) -> None:
    source = OlmoEarthSource(config(folder))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(whole(copy, 2).images["srtm"], whole(source, 2).images["srtm"])


# --- splits -----------------------------------------------------------------------------------------------------------
def test_parent_tiles_are_never_split(folder: Path) -> None:
    source = OlmoEarthSource(config(folder))
    train, val = source.indices("train"), source.indices("val")
    assert sorted([*train, *val]) == list(range(8))
    # Rows follow sample_index, so that row 6 is sample 8 and row 7 sample 9, both of parent tile 2.
    assert [source.group(i) for i in range(8)] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert not {source.group(int(i)) for i in train} & {source.group(int(i)) for i in val}
    assert len(val) > 0
    assert OlmoEarthSource(config(folder)).indices("val").tolist() == val.tolist()


def test_a_single_parent_tile_is_for_training_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        write(tmp_path, number, {"sentinel2_l2a": [True] * LENGTH})
    index(tmp_path, [f"{number},1" for number in range(4)], "sentinel2_l2a")
    source = OlmoEarthSource(config(tmp_path, {"sentinel2_l2a": MODALITIES["sentinel2_l2a"]}))
    assert source.indices("train").tolist() == [0, 1, 2, 3]
    assert len(source.indices("val")) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "one parent tile" in caplog.text


def test_samples_without_an_input_are_left_out(folder: Path) -> None:
    source = OlmoEarthSource(config(folder, {"sentinel1": MODALITIES["sentinel1"], "worldcover": MAP}))
    assert sorted([*source.indices("train"), *source.indices("val")]) == [1, 3, 5, 7]


# --- statistics -------------------------------------------------------------------------------------------------------
def test_computed_statistics_come_before_predefined_and_both_before_an_estimate(folder: Path, tmp_path: Path) -> None:
    computed = {"sentinel2_l2a": {"B02": {"mean": 5, "std": 2, "count": 1}, "B03": {"mean": 6.0, "std": 3.0}}}
    predefined = {
        "sentinel2_l2a": {"B02": {"min": 0, "max": 1}},
        "sentinel1": {b: {"min": -50, "max": 10} for b in ("vv", "vh")},
    }
    (tmp_path / "computed.json").write_text(json.dumps(computed))
    (tmp_path / "predefined.json").write_text(json.dumps(predefined))
    modalities = OlmoEarthSource(config(folder, statistics=str(tmp_path))).modalities
    assert (modalities["sentinel2_l2a"].mean, modalities["sentinel2_l2a"].std) == ((5, 6), (2, 3))
    assert modalities["srtm"].mean == pytest.approx([127.5])
    ends = np.array([-50, 10], np.float32).reshape(2, 1, 1, 1).repeat(2, -1)
    normalised, _ = modalities["sentinel1"].normalise(ends, np.ones((2, 1, 1), bool))
    np.testing.assert_allclose(normalised[:, 0, 0], [[0, 0], [1, 1]], atol=1e-6)


@pytest.mark.parametrize("value", ["5", None, [5], {"a": 5}])
def test_given_statistics_that_are_no_numbers(folder: Path, tmp_path: Path, value: object) -> None:
    table = {"sentinel2_l2a": {"B02": {"mean": value, "std": 2}, "B03": {"mean": 6.0, "std": 3.0}}}
    (tmp_path / "computed.json").write_text(json.dumps(table))
    message = re.escape(f"{tmp_path / 'computed.json'}: sentinel2_l2a.B02.mean={value!r}: not a number")
    with pytest.raises(InputError, match=message):
        OlmoEarthSource(config(folder, statistics=str(tmp_path)))


def test_a_folder_without_statistics_is_bad_input(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"data\.statistics=.*none: no computed\.json"):
        OlmoEarthSource(config(folder, statistics=str(tmp_path / "none")))


# --- mistakes and broken files ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no sample_metadata.csv"),
        ("number,sentinel2_l2a\n0,1\n", "needs a column sample_index"),
        ("sample_index,sentinel2_l2a\n0,yes\n", "not a table of whole numbers"),
        ("sample_index,sentinel2_l2a\n0,1\n0,1\n", "sample_index 0 is there twice"),
        ("sample_index,sentinel1\n0,1\n", "data.modalities.sentinel2_l2a"),
        ("sample_index,sentinel2_l2a\n0,0\n", "no sample"),
        ("sample_index,sentinel2_l2a\n", "0 columns of numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_wrong_metadata_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "sample_metadata.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        OlmoEarthSource(config(tmp_path, {"sentinel2_l2a": MODALITIES["sentinel2_l2a"]}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_number_of_bands_is_bad_input(folder: Path) -> None:
    with pytest.raises(InputError, match=r"data\.modalities\.sentinel2_l2a\.bands: 1 bands declared"):
        OlmoEarthSource(config(folder, {"sentinel2_l2a": modality("B02")}))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _flip(path: Path) -> None:
    """Damage the compressed pixels, and leave what HDF5 itself needs as it is."""
    with h5py.File(path) as file:
        chunk = file["sentinel2_l2a"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    for place in range(chunk.byte_offset, chunk.byte_offset + 40):
        content[place] ^= 0xFF
    path.write_bytes(bytes(content))


def _drop_timestep(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["missing_timesteps_masks/sentinel2_l2a"][0] = False


def _drop_timestamps(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["timestamps"]


def _make_group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["sentinel2_l2a"]
        file.create_group("sentinel2_l2a")


@pytest.mark.sample(3)
@pytest.mark.parametrize("damage", [_truncate, _flip, _drop_timestep, _drop_timestamps, _make_group, Path.unlink])
def test_a_broken_file_is_named_and_the_others_are_read(folder: Path, damage: Any) -> None:
    damage(folder / "sample_0.h5")
    source = OlmoEarthSource(config(folder))
    with pytest.raises(BrokenSampleError, match=r"sample_0\.h5: ") as caught:
        source.read(0, Window(0, 0, 4, 4), np.arange(LENGTH))
    assert "\n" not in str(caught.value)
    assert whole(source, 1).valid["sentinel1"].any()


# --- real data --------------------------------------------------------------------------------------------------------
def test_the_stand_in_file(shared_data: Path, tmp_path: Path) -> None:
    declared = {
        "sentinel2_l2a": modality(*S2),
        "sentinel1": modality("vv", "vh"),
        "srtm": modality("srtm", temporal=False),
        "worldcover": MAP,
    }
    given_config = config(
        shared_data / "olmoearth_layout", declared, statistics=str(shared_data / "olmoearth_norm"), tile=64
    )
    source = OlmoEarthSource(given_config)
    sample = whole(source, 0)
    assert source.shape(0) == (128, 128, 12)
    assert sample.valid["sentinel2_l2a"].all((0, 1)).tolist() == [True, False, False, *[True] * 9]
    assert sample.labels is not None
    assert np.unique(sample.labels).tolist() == [2, 3]
    assert source.modalities["srtm"].mean == pytest.approx([677.02], abs=0.01)
    for name, fitted in source.modalities.items():
        values, valid = fitted.normalise(sample.images[name], sample.valid[name])
        assert np.abs(values[valid]).mean() < 1.5
    broken = tmp_path / "sample_0.h5"
    shutil.copy(shared_data / "olmoearth_layout/sample_0.h5", broken)
    broken.chmod(0o644)
    shutil.copy(shared_data / "olmoearth_layout/sample_metadata.csv", tmp_path)
    _flip(broken)
    with_statistics = with_given_statistics(declared, str(shared_data / "olmoearth_norm"))
    with pytest.raises(BrokenSampleError, match=r"sample_0\.h5"):
        whole(OlmoEarthSource(config(tmp_path, with_statistics)), 0)


# --- what a file says about itself -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 12, 2021], "timestamps has the month 12; its columns are day 1-31, month 0-11, year"),
        ([2021, 3, 1], "timestamps has the day 2021"),
        ([1, 3, 21], "timestamps has the year 21"),
    ],
)
def test_timestamps_out_of_range_are_named_with_file_and_value(folder: Path, row: list[int], message: str) -> None:
    path = folder / "sample_0.h5"
    with h5py.File(path, "r+") as file:
        file["timestamps"][2] = row
    source = OlmoEarthSource(config(folder))
    with pytest.raises(BrokenSampleError, match=re.escape(f"{path}: {message}")):
        source.shape(0)


def test_scale_offset_and_fill_value_of_an_array(folder: Path) -> None:
    path = folder / "sample_0.h5"
    with h5py.File(path, "r+") as file:
        array = file["sentinel2_l2a"]
        array[0, 0, 0] = 7
        raw = array[()]
        array.attrs.update({"scale_factor": 0.5, "add_offset": -3.0, "_FillValue": 7})
    sample = whole(OlmoEarthSource(config(folder)), 0)
    mask = sample.valid["sentinel2_l2a"].any((0, 1))
    valid, images = (array["sentinel2_l2a"][:, :, mask] for array in (sample.valid, sample.images))
    fill = (raw == 7).any(-1)
    assert fill[0, 0, 0]
    np.testing.assert_array_equal(valid, ~fill)
    np.testing.assert_array_equal(images[~fill], (raw * 0.5 - 3.0)[~fill].astype(np.float32))
