"""The features that an embedding has to beat."""

import dataclasses

import numpy as np

from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD, Modality
from hybrid_patch.data.crops import Crop
from hybrid_patch.evaluate.features import Tile, random_features, surroundings
from hybrid_patch.model.band_whitening import BandWhitening

Array = np.ndarray


def tile_of(height: int = 40, width: int = 30, dates: int = 3, seed: int = 0) -> Tile:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(height, width, dates, 2)).astype(np.float32)
    valid = rng.random((height, width, dates)) < 0.7
    valid[:4, :4] = False  # a corner without data
    whole = Crop({"optical": pixels * valid[..., None]}, {"optical": valid}, np.zeros((dates, 3), np.int64), None)
    return Tile("tile", 0, whole, whole.any_valid(["optical"]), None)


def test_surroundings_are_those_of_the_mean_over_valid_dates() -> None:
    tile = tile_of()
    values = surroundings(["optical"])(tile)
    assert values.shape == (40, 30, 10)
    pixels, valid = tile.whole.pixels["optical"], tile.whole.valid["optical"]
    for y, x in ((0, 0), (2, 3), (5, 7), (20, 29), (39, 12)):
        expected: list[Array] = []
        for side in (1, 5, 17, 65):
            window = np.s_[max(y - side // 2, 0) : y + side // 2 + 1, max(x - side // 2, 0) : x + side // 2 + 1]
            masks, inside = valid[window].reshape(-1, 3), pixels[window].reshape(-1, 3, 2)
            means = np.array([p[m].mean(0) for p, m in zip(inside, masks, strict=True) if m.any()]).reshape(-1, 2)
            mean, deviation = (means.mean(0), means.std(0)) if len(means) else np.zeros((2, 2))
            expected += [mean] if side == 1 else [deviation]
        np.testing.assert_allclose(values[y, x], np.concatenate([*expected, mean]), atol=1e-5)


MODALITIES = {"optical": Modality(bands=("red", "nir"), band_sets=(("red", "nir"),), temporal=True, gsd=10.0)}


def test_random_features_are_the_same_for_every_tile() -> None:
    tile, features = tile_of(), random_features(MODALITIES, 3, 64, BandWhitening(MODALITIES))
    values = features(tile)
    assert values.shape == (40, 30, 64)
    assert (values.std((0, 1)) > 0).all()
    turned = dataclasses.replace(
        tile.whole,
        pixels={"optical": tile.whole.pixels["optical"][::-1].copy()},
        valid={"optical": tile.whole.valid["optical"][::-1].copy()},
    )
    other = dataclasses.replace(tile, whole=turned)
    np.testing.assert_array_equal(random_features(MODALITIES, 3, 64, BandWhitening(MODALITIES))(other), values[::-1])


def test_random_features_are_of_standard_values_and_a_missing_value_is_like_the_mean() -> None:
    tile, features = tile_of(200, 200), random_features(MODALITIES, 3, 64, BandWhitening(MODALITIES))
    standard = tile.whole.pixels["optical"] * tile.whole.valid["optical"][..., None]
    everywhere = {"optical": np.ones_like(tile.whole.valid["optical"])}
    filled = {"optical": (NORMALISED_MEAN + NORMALISED_STD * standard).astype(np.float32)}
    full = dataclasses.replace(tile.whole, pixels=filled, valid=everywhere)
    with_means = features(dataclasses.replace(tile, whole=full))
    with_gaps = features(dataclasses.replace(tile, whole=dataclasses.replace(tile.whole, pixels=filled)))
    np.testing.assert_allclose(with_gaps, with_means, atol=1e-6)
    normal = np.random.default_rng(0).normal(NORMALISED_MEAN, NORMALISED_STD, standard.shape).astype(np.float32)
    whole = dataclasses.replace(tile.whole, pixels={"optical": normal}, valid=everywhere)
    np.testing.assert_allclose(features(dataclasses.replace(tile, whole=whole)).mean((0, 1)), 0, atol=0.05)
