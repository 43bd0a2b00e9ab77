"""The map that the command writes: the grid of its input, and the numbers of the model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scenes import BANDS, DATE, TILE, call, make_run, read, values, write

import hybrid_patch
from hybrid_patch.embed import map_parts
from hybrid_patch.embed.reduction import Basis

Array = np.ndarray


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


def expected(run: Path, image: Array, overlap: int | None = None) -> Array:
    """`[D, H, W]` by `TrainedModel.embed`."""
    model = hybrid_patch.load(run, "cpu")
    optical = np.moveaxis(image.astype(np.float32), 0, -1)[:, :, None]
    optical[(optical == -9999).any(-1)] = np.nan
    return np.moveaxis(model.embed({"sentinel2_l2a": optical}, [DATE], overlap=overlap), -1, 0)


def test_arrays_are_embedded_without_extras(run: Path) -> None:
    program = """
import sys
import numpy as np
import hybrid_patch
embedding = hybrid_patch.load(sys.argv[1], "cpu").embed({"sentinel2_l2a": np.ones((40, 33, 1, 12))}, ["2024-05-31"])
assert embedding.shape == (40, 33, 32)
extras = {"rasterio", "h5py", "hdf5plugin", "pyarrow", "sklearn", "scipy", "matplotlib", "PIL", "jinja2"}
print(sorted(extras & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True, timeout=240)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(("height", "width"), [(75, 61), (32, 32), (5, 90), (3, 2)])
def test_values_are_those_of_the_model(run: Path, tmp_path: Path, height: int, width: int) -> None:
    image = values(height, width)
    image[:, 1:3, 1] = -9999
    scene = write(tmp_path / f"{DATE}.tif", image)
    output = tmp_path / "map.tif"
    assert call(f"run={run}", f"input={scene}", f"output={output}", "dims=full")[0] == 0
    embedding = read(output)
    np.testing.assert_allclose(embedding, expected(run, image), atol=1e-5)
    assert np.isnan(embedding[:, 1:3, 1]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == [scene.name, output.name]


def test_many_parts_are_one_map(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_parts, "MAX_PART_BYTES", 1)
    monkeypatch.setattr(map_parts, "MAX_STRIP_BYTES", 1)
    image = values(290, 270)
    image[:, :, 100:170] = -9999
    scene, output = write(tmp_path / f"{DATE}.tif", image), tmp_path / "map.tif"
    code, stderr = call(f"run={run}", f"input={scene}", f"output={output}", "dims=full", "overlap=4")
    assert code == 0
    assert "9 parts to make" in stderr
    np.testing.assert_allclose(read(output), expected(run, image, overlap=4), atol=1e-5)


@pytest.mark.sample(2)
@pytest.mark.parametrize("cog", ["true", "false"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_file_has_the_grid_of_its_input(run: Path, tmp_path: Path, dtype: str, cog: str) -> None:
    scene, output = write(tmp_path / f"{DATE}.tif", values(300, 280)), tmp_path / "map.tif"
    options = ("dims=5", f"dtype={dtype}", f"cog={cog}")
    assert call(f"run={run}", f"input={scene}", f"output={output}", *options)[0] == 0
    with rasterio.open(scene) as before, rasterio.open(output) as after:
        assert (after.height, after.width, after.count) == (300, 280, 5)
        assert after.crs == before.crs
        assert after.transform == before.transform
        assert after.dtypes == (("int8",) if dtype == "int8" else ("float32",)) * 5
        assert after.nodata == -128 if dtype == "int8" else np.isnan(after.nodata)
        assert all(description.startswith(f"pc{i:02d} (") for i, description in enumerate(after.descriptions, 1))
        assert after.profile["tiled"]
        assert after.compression.name == "zstd"
        structure = after.tags(ns="IMAGE_STRUCTURE")
        assert (structure.get("LAYOUT") == "COG") == (cog == "true")
        assert bool(after.overviews(1)) == (cog == "true")
        assert after.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == ("16" if dtype == "float16" else None)
        tags = after.tags()
        assert tags["EMBEDDING_RUN"] == json.loads((run / "run.json").read_text())["run_id"]
        assert json.loads(tags["EMBEDDING_OPTIONS"])["dtype"] == dtype
        assert (tags["EMBEDDING_PROCESSING_PATCH_SIZE"], tags["EMBEDDING_OUTPUT_PATCH_SIZE"]) == ("8", "1")
        if dtype == "int8":
            assert json.loads(tags["EMBEDDING_SCALES"]) == pytest.approx(after.scales)
            assert json.loads(tags["EMBEDDING_OFFSETS"]) == pytest.approx(after.offsets)


@pytest.mark.sample(2)
@pytest.mark.parametrize("reduce", ["pca", "random"])
@pytest.mark.parametrize("upsampler", ["nearest", "learned", "transposed"])
def test_few_numbers_are_those_of_the_dense_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reduce: str, upsampler: str
) -> None:
    run = make_run(tmp_path / "run", f"upsampler={upsampler}")
    scene, output = write(tmp_path / f"{DATE}.tif", values(70, 70)), tmp_path / "map.tif"
    bases = []

    def finish(folder: map_parts.PartsFolder) -> None:
        bases.append(Basis.from_lists(json.loads((folder.path / "job.json").read_text())["basis"]))
        folder.copy.rename(folder.output)

    monkeypatch.setattr(map_parts.PartsFolder, "finish", finish)
    options = ("dims=6", f"reduce={reduce}")
    assert call(f"run={run}", f"input={scene}", f"output={output}", *options)[0] == 0
    dense = np.moveaxis(expected(run, values(70, 70)), 0, -1)
    reduced = np.moveaxis(dense @ bases[0].weight + bases[0].bias, -1, 0)
    np.testing.assert_allclose(read(output), reduced, atol=1e-4)
    np.testing.assert_allclose(bases[0].weight.T @ bases[0].weight, np.eye(6), atol=1e-9)
    if reduce == "pca":
        assert list(bases[0].share) == sorted(bases[0].share, reverse=True)


def test_int8_is_within_half_a_step(run: Path, tmp_path: Path) -> None:
    image = values(90, 90)
    image[:, :9, :9] = -9999
    scene, exact, rough = write(tmp_path / f"{DATE}.tif", image), tmp_path / "exact.tif", tmp_path / "rough.tif"
    assert call(f"run={run}", f"input={scene}", f"output={exact}", "dims=8")[0] == 0
    assert call(f"run={run}", f"input={scene}", f"output={rough}", "dims=8", "dtype=int8")[0] == 0
    with rasterio.open(rough) as dataset:
        raw, half = dataset.read(), np.array(dataset.scales)[:, None, None] / 2
    assert (raw[:, :9, :9] == -128).all()
    inside = np.abs(raw.astype(int)) < 127
    assert inside[:, 9:, 9:].mean() > 0.99
    assert (np.abs(read(rough) - read(exact)) <= half * 1.001)[inside].all()


def test_half_precision(run: Path, tmp_path: Path) -> None:
    scene, exact, half = write(tmp_path / f"{DATE}.tif", values(50, 50)), tmp_path / "exact.tif", tmp_path / "half.tif"
    assert call(f"run={run}", f"input={scene}", f"output={exact}")[0] == 0
    assert call(f"run={run}", f"input={scene}", f"output={half}", "dtype=float16")[0] == 0
    np.testing.assert_array_equal(read(half), read(exact).astype(np.float16))


def test_a_map_of_patches(tmp_path: Path) -> None:
    """Its pixels are 8 of the scene's, and hold what all pixels of a patch share."""
    run = make_run(tmp_path / "run", "patch=ps8")
    for width in (64, 61):
        scene, output = write(tmp_path / f"{width}" / f"{DATE}.tif", values(64, width)), tmp_path / f"{width}.tif"
        options = ("dims=full", "grid=patch", "overlap=0")
        assert call(f"run={run}", f"input={scene}", f"output={output}", *options)[0] == 0
        with rasterio.open(output) as dataset:
            assert (dataset.height, dataset.width) == (8, 8)
            assert dataset.res == (80, 80)
    pixels = expected(run, values(64, 64), overlap=0)
    np.testing.assert_allclose(read(tmp_path / "64.tif"), pixels[:, ::8, ::8], atol=1e-5)


def test_bands_are_found_by_name(run: Path, tmp_path: Path) -> None:
    image = values(40, 40)
    order = np.random.default_rng(0).permutation(12)
    extra = np.concatenate([image[:1] * 0, image[order]])
    names = ["cloud", *(BANDS[i].lower() for i in order)]
    plain, other = write(tmp_path / "a" / f"{DATE}.tif", image), write(tmp_path / "b" / f"{DATE}.tif", extra, names)
    assert call(f"run={run}", f"input={plain}", f"output={tmp_path / 'plain.tif'}")[0] == 0
    code, stderr = call(f"run={run}", f"input={other}", f"output={tmp_path / 'other.tif'}")
    assert code == 0
    assert f"{DATE}.tif: bands not used: cloud" in stderr
    np.testing.assert_array_equal(read(tmp_path / "plain.tif"), read(tmp_path / "other.tif"))


def test_bands_without_names_are_taken_in_order(run: Path, tmp_path: Path) -> None:
    plain = write(tmp_path / "a" / f"{DATE}.tif", values(40, 40))
    nameless = write(tmp_path / "b" / f"{DATE}.tif", values(40, 40), names=())
    assert call(f"run={run}", f"input={plain}", f"output={tmp_path / 'plain.tif'}")[0] == 0
    code, stderr = call(f"run={run}", f"input={nameless}", f"output={tmp_path / 'other.tif'}")
    assert code == 0
    assert "taken in order" in stderr
    np.testing.assert_array_equal(read(tmp_path / "plain.tif"), read(tmp_path / "other.tif"))


def test_a_missing_band_may_be_a_missing_band_set(run: Path, tmp_path: Path) -> None:
    """What is in the other bands of its set is not looked at."""
    image, lacking = values(40, 40), [i for i in range(12) if BANDS[i] != "B8A"]
    changed = image.copy()
    changed[BANDS.index("B05")] += 1000
    outputs = []
    for name, pixels in (("a", image), ("b", changed)):
        scene = write(tmp_path / name / f"{DATE}.tif", pixels[lacking], [BANDS[i] for i in lacking])
        outputs.append(tmp_path / f"{name}.tif")
        options = ("dims=full", "missing_bands=drop")
        code, stderr = call(f"run={run}", f"input={scene}", f"output={outputs[-1]}", *options)
        assert code == 0
        assert "has no B8A; left out band sets: B05, B06, B07, B8A, B11, B12" in stderr
    np.testing.assert_array_equal(read(outputs[0]), read(outputs[1]))
    assert np.abs(read(outputs[0]) - expected(run, image)).max() > 0.01


def test_a_series(run: Path, tmp_path: Path) -> None:
    """The run takes two dates: the first and the last of three."""
    images = {f"2024-0{month}-01": values(40, 40, month) for month in (3, 6, 9)}
    for date, image in images.items():
        write(tmp_path / "series" / f"{date}.tif", image)
    code, stderr = call(f"run={run}", f"input={tmp_path / 'series'}", f"output={tmp_path / 'map.tif'}", "dims=full")
    assert code == 0
    assert "3 dates, and the run takes 2: 2024-03-01, 2024-09-01" in stderr
    first, last = (np.moveaxis(images[date], 0, -1).astype(np.float32) for date in ("2024-03-01", "2024-09-01"))
    model = hybrid_patch.load(run, "cpu")
    embedding = model.embed({"sentinel2_l2a": np.stack([first, last], 2)}, ["2024-03-01", "2024-09-01"])
    np.testing.assert_allclose(read(tmp_path / "map.tif"), np.moveaxis(embedding, -1, 0), atol=1e-5)


def test_several_modalities(tmp_path: Path) -> None:
    from building import TINY, trained_run

    trained_run(tmp_path / "run", *TINY, f"data.tile={TILE}", "~data.modalities.sentinel1", steps=1)
    image, height = values(40, 40), values(40, 40, 1)[:1]
    write(tmp_path / "scene" / "sentinel2_l2a" / f"{DATE}.tif", image)
    write(tmp_path / "scene" / "srtm.tif", height, ("srtm",))
    arguments = (f"run={tmp_path / 'run'}", f"output={tmp_path / 'map.tif'}", "dims=full")
    assert call(*arguments, f"input={tmp_path / 'scene'}")[0] == 0
    model = hybrid_patch.load(tmp_path / "run", "cpu")
    optical, ground = (np.moveaxis(x, 0, -1)[:, :, None].astype(np.float32) for x in (image, height))
    embedding = model.embed({"sentinel2_l2a": optical, "srtm": ground}, [DATE])
    np.testing.assert_allclose(read(tmp_path / "map.tif"), np.moveaxis(embedding, -1, 0), atol=1e-5)
    alone = tmp_path / "scene" / "sentinel2_l2a" / f"{DATE}.tif"
    (tmp_path / "map.tif").unlink()
    code, stderr = call(*arguments, f"input={alone}")
    assert code == 0
    assert "not in the input, so missing: srtm" in stderr


def test_no_seam_shows(run: Path, tmp_path: Path) -> None:
    """Steps from one pixel to the next across borders of windows, relative to elsewhere."""
    scene = write(tmp_path / f"{DATE}.tif", values(200, 200))
    model = hybrid_patch.load(run, "cpu")
    ratios = {}
    for overlap in (0, 8):
        output = tmp_path / f"{overlap}.tif"
        options = ("dims=full", f"overlap={overlap}")
        assert call(f"run={run}", f"input={scene}", f"output={output}", *options)[0] == 0
        steps = np.abs(np.diff(read(output), axis=2)).mean((0, 1))
        starts = model.tiling(overlap).starts(200)
        borders = {edge - 1 for start in starts for edge in (start, start + TILE) if 0 < edge < 200}
        # Among places that lie likewise in their patch: steps inside and between patches differ.
        others = [x for x in range(7, len(steps), 8) if x not in borders]
        ratios[overlap] = steps[sorted(borders)].mean() / steps[others].mean()
    assert ratios[0] > 1.3
    assert ratios[8] < 1.1


def test_overviews_are_means(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_parts, "MAX_PART_BYTES", 1)
    monkeypatch.setattr(map_parts, "MAX_STRIP_BYTES", 1)
    image = values(301, 531)
    image[:, 10:51, 20:61] = -9999
    scene, output = write(tmp_path / f"{DATE}.tif", image), tmp_path / "map.tif"
    assert call(f"run={run}", f"input={scene}", f"output={output}", "dims=3")[0] == 0
    fine = np.pad(read(output), ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    with rasterio.open(output) as dataset:
        assert dataset.overviews(1)[0] == 2
        sides = [-(-301 // factor) for factor in dataset.overviews(1)]
    for level, side in enumerate(sides):
        with rasterio.open(output, overview_level=level) as dataset:
            assert dataset.height == side
            if level == 0:
                with np.errstate(invalid="ignore"):
                    corners = np.stack([fine[:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
                    count = np.isfinite(corners).sum(0)
                    mean = np.where(count > 0, np.nansum(corners, axis=0) / count, np.nan)
                np.testing.assert_allclose(dataset.read(), mean, atol=1e-5)
