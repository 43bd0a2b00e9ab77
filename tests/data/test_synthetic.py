"""The synthetic scenes: the same everywhere, exact in every window, finer than a patch, and worth learning from."""

import dataclasses
import multiprocessing
import pickle
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.source import Sample, Window
from hybrid_patch.data.synthetic import Synthetic
from hybrid_patch.data.synthetic import source as synthetic
from hybrid_patch.data.synthetic.scene import LOOKS
from hybrid_patch.data.synthetic.source import SyntheticSource
from hybrid_patch.data.synthetic.spectra import BANDS, CLASSES
from hybrid_patch.errors import InputError

Array = np.ndarray

OPTICAL = Modality(bands=BANDS, band_sets=(BANDS,), temporal=True, gsd=10.0)
RADAR = Modality(bands=("vv", "vh"), band_sets=(("vv", "vh"),), temporal=True, gsd=10.0)
HEIGHT = Modality(bands=("srtm",), band_sets=(("srtm",),), temporal=False, gsd=10.0)
SCENES = 16

LABELS_OF_SCENE_0 = 823806759
"""CRC-32 of the class of each pixel, one byte each, row by row."""
DATES_OF_SCENE_0 = ((2, 0, 2020), (8, 11, 2020))
MEANS_OF_SCENE_0 = {
    "sentinel2_l2a": (
        *(970.239, 1136.55, 1144.44, 2705.01),
        *(1447.98, 2152.29, 2521.12, 2828.54, 2266.63, 1563.59),
        *(950.047, 2722.05),
    ),
    "sentinel1": (-11.3491, -17.6118),
    "srtm": (188.741,),
}


def config(**changes: Any) -> Synthetic:
    values: dict[str, Any] = {
        "name": "synthetic",
        "tile": 16,
        "timesteps": 4,
        "modalities": {"sentinel2_l2a": OPTICAL, "sentinel1": RADAR, "srtm": HEIGHT},
        "on_error": "raise",
        "max_skipped": 0.1,
        "scenes": SCENES,
        "scene_size": 128,
        "scene_timesteps": 12,
        "scene_seed": 0,
        "label_kind": "classes",
    }
    return Synthetic(**(values | changes))


def whole(source: SyntheticSource, index: int) -> Sample:
    height, width, length = source.shape(index)
    return source.read(index, Window(0, 0, height, width), np.arange(length))


def labels_of(sample: Sample) -> Array:
    assert sample.labels is not None
    return sample.labels


def checksum(sample: Sample) -> int:
    """One number for all pixels, flags, labels and dates of a sample."""
    arrays = [*sample.images.values(), *sample.valid.values(), sample.timestamps, labels_of(sample)]
    return zlib.crc32(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def checksum_in_another_process(source: SyntheticSource) -> int:
    return checksum(whole(source, 1))


def label_patches(labels: Array) -> Array:
    """`[N, 64]` labels of the 8 × 8 patches."""
    side = labels.shape[0] // 8
    return labels.reshape(side, 8, side, 8).swapaxes(1, 2).reshape(-1, 64)


def solid(mask: Array, side: int) -> Array:
    """Where a square of `side` pixels that is wholly in the mask covers a pixel."""
    full = np.lib.stride_tricks.sliding_window_view(mask, (side, side)).all((2, 3))
    covered = np.zeros_like(mask)
    for row, column in np.ndindex(side, side):
        covered[row : row + full.shape[0], column : column + full.shape[1]] |= full
    return covered


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(config())


@pytest.fixture(scope="module")
def scenes(source: SyntheticSource) -> list[Sample]:
    """All training scenes, whole."""
    return [whole(source, int(index)) for index in source.indices("train")]


@pytest.fixture(scope="module")
def small() -> tuple[SyntheticSource, Sample]:
    source = SyntheticSource(config(scene_size=40, scene_timesteps=6, scene_seed=3))
    return source, whole(source, 0)


@pytest.mark.full
def test_scenes_are_the_same_in_another_process_and_order(source: SyntheticSource, scenes: list[Sample]) -> None:
    other = SyntheticSource(config())
    for index in (5, 2, 5):
        assert checksum(whole(other, index)) == checksum(scenes[index])
    copied = pickle.loads(pickle.dumps(source))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(checksum_in_another_process, (copied,)) == checksum(scenes[1])


def test_scenes_are_those_that_were_published(scenes: list[Sample]) -> None:
    """Whoever changes the scenes changes these numbers, and the number in `fingerprint.SYNTHETIC` with them."""
    assert zlib.crc32(labels_of(scenes[0]).astype(np.uint8).tobytes()) == LABELS_OF_SCENE_0
    np.testing.assert_array_equal(scenes[0].timestamps[[0, -1]], DATES_OF_SCENE_0)
    for name, expected in MEANS_OF_SCENE_0.items():
        # Pixels may differ in the last bit between machines; the mean of so many does not show it.
        np.testing.assert_allclose(scenes[0].images[name].mean((0, 1, 2), dtype=np.float64), expected, rtol=1e-4)


def test_scenes_differ(source: SyntheticSource, scenes: list[Sample]) -> None:
    assert len({checksum(scene) for scene in scenes}) == SCENES
    assert checksum(whole(SyntheticSource(config(scene_seed=1)), 0)) != checksum(scenes[0])


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_window_is_that_part_of_the_whole(small: tuple[SyntheticSource, Sample], data: st.DataObject) -> None:
    source, scene = small
    top, left = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 39))
    window = Window(top, left, data.draw(st.integers(1, 40 - top)), data.draw(st.integers(1, 40 - left)))
    timesteps = np.array(sorted(data.draw(st.sets(st.integers(0, 5), min_size=1))))
    part = source.read(0, window, timesteps)
    rows, columns = slice(top, top + window.height), slice(left, left + window.width)
    np.testing.assert_array_equal(labels_of(part), labels_of(scene)[rows, columns])
    np.testing.assert_array_equal(part.timestamps, scene.timestamps[timesteps])
    for name in source.modalities:
        when = timesteps if source.modalities[name].temporal else np.array([0])
        np.testing.assert_array_equal(part.images[name], scene.images[name][rows, columns][:, :, when])
        np.testing.assert_array_equal(part.valid[name], scene.valid[name][rows, columns][:, :, when])
        assert part.images[name].dtype == np.float32


@given(size=st.integers(1, 70), timesteps=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_scenes_of_any_size(size: int, timesteps: int, seed: int) -> None:
    source = SyntheticSource(config(scene_size=size, scene_timesteps=timesteps, scene_seed=seed))
    scene = whole(source, 0)
    assert scene.images["sentinel2_l2a"].shape == (size, size, timesteps, 12)
    assert scene.images["srtm"].shape == (size, size, 1, 1)
    assert all(np.isfinite(image).all() for image in scene.images.values())
    assert 0 <= labels_of(scene).min() <= labels_of(scene).max() < len(CLASSES)
    assert scene.valid["sentinel2_l2a"].any()
    assert scene.valid["sentinel1"].any()


def test_most_patches_hold_more_than_one_class(scenes: list[Sample]) -> None:
    patches = np.concatenate([label_patches(labels_of(scene)) for scene in scenes])
    assert 0.6 < (patches != patches[:, :1]).any(1).mean() < 0.78


def test_roads_rivers_and_buildings_are_finer_than_a_patch(scenes: list[Sample]) -> None:
    labels = [labels_of(scene) for scene in scenes]
    road, building, water = (CLASSES.index(name) for name in ("road", "building", "water"))
    thin = {name: [(x == k) & ~solid(x == k, 4) for x in labels] for name, k in (("road", road), ("water", water))}
    assert np.sum(thin["road"]) > 0.9 * sum((x == road).sum() for x in labels)
    assert all((river.sum() > 60) for river in thin["water"])
    assert not any(solid(x == building, 4).any() for x in labels)
    # One or two pixels: where a road is not crossed by another, no square of three fits.
    assert np.mean([solid(x == road, 3).sum() / (x == road).sum() for x in labels]) < 0.25


def test_every_class_is_there(scenes: list[Sample]) -> None:
    counts = np.array([np.bincount(labels_of(scene).ravel(), minlength=10) for scene in scenes])
    assert ((counts > 0).sum(1) >= 9).all()
    share = counts.sum(0) / counts.sum()
    assert share.min() > 0.007
    assert share.max() < 0.35


def test_some_dates_and_corners_are_missing(scenes: list[Sample]) -> None:
    for name, share in (("sentinel2_l2a", 0.12), ("sentinel1", 0.06)):
        valid = np.stack([scene.valid[name] for scene in scenes])
        delivered = valid.any((1, 2))
        assert abs((~delivered).mean() - share) < 0.06
        assert valid.any((1, 2, 3)).all()
        partly = valid.mean((1, 2))[delivered]
        assert 0.02 < (partly < 1).mean() < 0.3
        assert partly.min() > 0.7
        for scene in scenes:
            assert (scene.images[name][~scene.valid[name]] == 0).all()
            assert (scene.images[name][scene.valid[name]] != 0).all()
    assert all(scene.valid["srtm"].all() for scene in scenes)


def test_clouds_are_bright_pixels_that_count_as_measured(scenes: list[Sample]) -> None:
    blue = np.stack([scene.images["sentinel2_l2a"][..., BANDS.index("B02")] for scene in scenes])
    share = (blue > 4000).mean((1, 2))
    assert (share < 0.01).mean() > 0.5, "most dates are clear"
    assert (share > 0.05).mean() > 0.15, "some are not"


def test_dates_are_spread_over_one_year(scenes: list[Sample]) -> None:
    for scene in scenes:
        days, months, years = scene.timestamps.T
        assert len(set(years)) == 1
        assert months.min() >= 0
        assert months.max() <= 11
        dates = np.array([f"{y}-{m + 1:02}-{d:02}" for d, m, y in scene.timestamps], "datetime64[D]")
        assert (np.diff(dates).astype(int) > 0).all()
        np.testing.assert_array_equal(np.diff(months) >= 0, True)
        assert (dates[-1] - dates[0]).astype(int) > 290
        assert days.min() >= 1


def test_crops_green_up_at_their_own_time(scenes: list[Sample]) -> None:
    red, nir = BANDS.index("B04"), BANDS.index("B08")

    def greenness(crop: str, month: int) -> float:
        """Median vegetation index of a crop in a month, clouds and shadows left out."""
        indices = []
        for scene in scenes:
            image = scene.images["sentinel2_l2a"][:, :, scene.timestamps[:, 1] == month]
            clear = scene.valid["sentinel2_l2a"][:, :, scene.timestamps[:, 1] == month] & (image[..., 0] < 2500)
            clear &= (labels_of(scene) == CLASSES.index(crop))[..., None]
            pixels = image[clear]
            indices.append((pixels[:, nir] - pixels[:, red]) / (pixels[:, nir] + pixels[:, red]))
        return float(np.median(np.concatenate(indices)))

    april, august = 3, 7
    assert greenness("winter wheat", april) > greenness("winter wheat", august) + 0.2
    assert greenness("maize", august) > greenness("maize", april) + 0.2
    assert abs(greenness("maize", august) - greenness("sugar beet", august)) < 0.1


def test_classes_are_told_by_how_they_vary_around_a_pixel(scenes: list[Sample]) -> None:
    nir = BANDS.index("B08")

    def contrast(name: str, distance: int) -> float:
        """Deviation of the logarithmic ratio of two pixels of a class on a clear date at a distance in pixels."""
        ratios = []
        for scene in scenes:
            image, valid = scene.images["sentinel2_l2a"], scene.valid["sentinel2_l2a"]
            inside = (valid & (image[..., 0] < 2500)) & (labels_of(scene) == CLASSES.index(name))[..., None]
            both = inside[:, distance:] & inside[:, :-distance]
            ratios.append(np.log(image[:, distance:][both][:, nir] / image[:, :-distance][both][:, nir]))
        return float(np.concatenate(ratios).std())

    # Crowns of conifers are finer than a pixel, those of broad leaves stand in clumps; a field of wheat is even.
    assert contrast("conifer forest", 1) > 2 * contrast("winter wheat", 1)
    assert contrast("conifer forest", 1) > 1.3 * contrast("broadleaf forest", 1)
    assert contrast("broadleaf forest", 4) > 1.3 * contrast("broadleaf forest", 1)


def test_speckle_and_noise_have_their_distributions(source: SyntheticSource, scenes: list[Sample]) -> None:
    scene = source._scene(0)
    clean = np.moveaxis(scene.look.backscatter[:, scene.ground.objects], 0, 2)
    valid = scenes[0].valid["sentinel1"]
    speckle = 10 ** ((scenes[0].images["sentinel1"][valid] - clean[valid]) / 10)
    assert speckle.mean() == pytest.approx(1, abs=0.01)
    assert speckle.var() == pytest.approx(1 / LOOKS, abs=0.01)
    correlation = np.corrcoef(speckle.T)
    assert abs(correlation[0, 1]) < 0.02
    t = int(np.flatnonzero(valid.all((0, 1)))[0])
    image = scenes[0].images["sentinel1"][:, :, t, 0] - clean[:, :, t, 0]
    assert abs(np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(image[1:].ravel(), image[:-1].ravel())[0, 1]) < 0.03


def test_normalised_values_have_mean_a_half_and_deviation_a_quarter(
    source: SyntheticSource, scenes: list[Sample]
) -> None:
    for name, modality in source.modalities.items():
        normalised = [modality.normalise(scene.images[name], scene.valid[name]) for scene in scenes]
        values = np.concatenate([pixels[valid] for pixels, valid in normalised])
        near = 0.1 if name == "srtm" else 0.04  # One height per scene, so to speak: sixteen draws.
        np.testing.assert_allclose(values.mean(0), 0.5, atol=near)
        np.testing.assert_allclose(values.std(0), 0.25, atol=near)


def test_splits_share_no_scene(source: SyntheticSource) -> None:
    train, val = source.indices("train"), source.indices("val")
    assert train.tolist() == list(range(16))
    assert val.tolist() == [16, 17, 18, 19]
    assert len({source.group(int(index)) for index in [*train, *val]}) == 20
    assert SyntheticSource(config(scenes=5)).indices("val").tolist() == [5, 6]
    assert SyntheticSource(config(scenes=1)).indices("val").tolist() == [1]
    assert source.name(17) == "synthetic scene 17 of seed 0"


def test_bands_come_in_the_order_that_is_asked_for(small: tuple[SyntheticSource, Sample]) -> None:
    scene = small[1]
    few = dataclasses.replace(OPTICAL, bands=("B11", "B02"), band_sets=(("B02",), ("B11",)))
    source = SyntheticSource(config(scene_size=40, scene_timesteps=6, scene_seed=3, modalities={"sentinel2_l2a": few}))
    part = whole(source, 0)
    assert set(part.images) == {"sentinel2_l2a"}
    expected = scene.images["sentinel2_l2a"][..., [BANDS.index("B11"), BANDS.index("B02")]]
    np.testing.assert_array_equal(part.images["sentinel2_l2a"], expected)
    assert source.modalities["sentinel2_l2a"].mean == (2330.0, 1080.0)


def test_statistics_that_are_given_are_kept() -> None:
    given = dataclasses.replace(RADAR, mean=(-10.0, -17.0), std=(4.0, 5.0))
    assert SyntheticSource(config(modalities={"sentinel1": given})).modalities == {"sentinel1": given}


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({"landsat": OPTICAL}, "data.modalities.landsat: synthetic scenes have only sentinel2_l2a, sentinel1, srtm"),
        (
            {"sentinel1": dataclasses.replace(RADAR, bands=("vv", "hh"), band_sets=(("vv", "hh"),))},
            "data.modalities.sentinel1.bands: hh is none of vv, vh",
        ),
        ({"srtm": dataclasses.replace(HEIGHT, temporal=True)}, "data.modalities.srtm: .* static and continuous"),
    ],
)
def test_what_scenes_do_not_have_is_refused(modalities: dict[str, Modality], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticSource(config(modalities=modalities))


def test_few_scenes_are_kept(monkeypatch: pytest.MonkeyPatch, scenes: list[Sample]) -> None:
    monkeypatch.setattr(synthetic, "CACHE_BYTES", 1_500_000)
    source = SyntheticSource(config())
    for index in (0, 1, 2, 0, 3, 4, 0):
        assert checksum(whole(source, index)) == checksum(scenes[index])
    assert 0 in source._scenes
    assert len(source._scenes) < 5
    assert sum(scene.nbytes for scene in source._scenes.values()) < 2_500_000


def test_pixels_tell_more_than_patch_means_and_not_everything(scenes: list[Sample]) -> None:
    """A linear probe on one date in June: single pixels beat 8 × 8 means, and leave much to context and time."""
    rng = np.random.default_rng(0)
    pixels, means, labels, training = [], [], [], []
    for number, scene in enumerate(scenes):
        june = int(np.argmin(np.abs(scene.timestamps[:, 1] - 5)))
        if not scene.valid["sentinel2_l2a"][:, :, june].all():
            continue
        image = scene.images["sentinel2_l2a"][:, :, june] / 4000
        mean = image.reshape(16, 8, 16, 8, 12).mean((1, 3)).repeat(8, 0).repeat(8, 1)
        row, column = rng.integers(0, 128, (2, 900))
        pixels.append(image[row, column])
        means.append(mean[row, column])
        labels.append(labels_of(scene)[row, column])
        training.append(np.full(900, number % 3 > 0))
    y, fit = np.concatenate(labels), np.concatenate(training)

    def score(features: Array) -> float:
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(features[fit], y[fit])
        return float(jaccard_score(y[~fit], probe.predict(features[~fit]), average="macro"))

    by_pixel, by_patch = score(np.concatenate(pixels)), score(np.concatenate(means))
    assert 0.3 < by_pixel < 0.7
    assert by_patch < by_pixel - 0.08
