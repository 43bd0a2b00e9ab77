"""The linear probe and the nearest neighbours."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hybrid_patch.data.crops import Crop
from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.evaluate import knn
from hybrid_patch.evaluate.features import Tile
from hybrid_patch.evaluate.knn import NearestNeighbours
from hybrid_patch.evaluate.linear_probe import WEIGHT_DECAYS, fit_linear_probe, logistic_regressions
from hybrid_patch.evaluate.pixel_sampling import (
    NotEnoughLabelsError,
    draw_by_class,
    draw_of_each_class,
    sample_pixels,
)

Array = np.ndarray


def mixed(n: int, d: int, classes: int, seed: int = 0) -> tuple[Array, Array]:
    """Correlated features, and labels that they predict with noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.geomspace(1, 100, d) + 5
    logits = (features - 5) / np.geomspace(1, 100, d) @ rng.normal(size=(d, classes)) / d
    return features.astype(np.float32), (logits + rng.gumbel(size=(n, classes))).argmax(1) * 2


@pytest.mark.parametrize("decay", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_fit_is_the_minimum_that_scikit_learn_finds(decay: float, classes: int) -> None:
    features, labels = mixed(2000, 6, classes)
    *_, probe = logistic_regressions(features, labels, [*(x for x in WEIGHT_DECAYS if x > decay), decay])
    standard = (features - probe.mean) / probe.scale

    def objective(weight: Array, bias: Array) -> float:
        logits = standard @ weight + bias
        true_logits = logits[np.arange(len(labels)), np.searchsorted(probe.classes, labels)]
        return float((np.log(np.exp(logits).sum(1)) - true_logits).mean() + decay / 2 * (weight**2).sum())

    theirs = LogisticRegression(C=1 / (decay * len(labels)), max_iter=5000, tol=1e-8).fit(standard, labels)
    coefficients, intercept = theirs.coef_.T, theirs.intercept_
    if classes == 2:  # scikit-learn has one row for two classes
        coefficients, intercept = (
            np.concatenate([-coefficients, coefficients], 1) / 2,
            np.array([-1, 1]) * intercept / 2,
        )
        assert probe.converged
        assert objective(probe.weight, probe.bias) <= objective(coefficients, intercept) + 1e-5
    else:
        assert objective(probe.weight, probe.bias) == pytest.approx(objective(coefficients, intercept), abs=1e-5)
        assert (probe.predict(features) == theirs.predict(standard)).mean() > 0.995
    assert set(probe.predict(features)) <= set(labels)


def test_constant_and_doubled_features_do_no_harm() -> None:
    features, labels = mixed(500, 3, 3)
    worse = np.concatenate([features, features, np.full((500, 2), 7, np.float32)], 1)
    a, b = (next(logistic_regressions(x, labels, [1e-4])).predict(x) for x in (features, worse))
    assert (a == b).mean() > 0.98


def test_the_penalty_is_judged_by_tile() -> None:
    """What differs from tile to tile tells nothing: the held-out tiles choose a strong penalty."""
    rng = np.random.default_rng(0)
    tile = np.arange(800) // 100
    by_tile = np.concatenate([rng.normal(size=(8, 60))[tile], rng.normal(size=(800, 1))], axis=1)
    assert fit_linear_probe(by_tile, (tile % 2).astype(int), tile).decay >= 1e-2
    labels = rng.integers(3, size=800)
    linear = np.eye(3)[labels] + rng.normal(scale=0.2, size=(800, 3))
    assert (fit_linear_probe(linear, labels, tile).predict(linear) == labels).mean() > 0.97


def zeros(tile: Tile) -> Array:
    return np.zeros((*tile.valid_mask.shape, 2))


def labelled_tile(*labels: int) -> Tile:
    shape = (1, len(labels))
    whole = Crop({}, {}, np.zeros((1, 3), np.int64), None)
    return Tile("tile", 0, whole, np.ones(shape, bool), np.array([labels]))


@pytest.mark.parametrize(
    ("tiles", "message"),
    [([[UNLABELLED] * 3], "no training tile has a labelled pixel"), ([[1, UNLABELLED], [1]], "at least two classes")],
)
def test_a_sample_of_pixels_has_two_classes(tiles: list[list[int]], message: str) -> None:
    with pytest.raises(NotEnoughLabelsError, match=message):
        sample_pixels({"zeros": zeros}, [labelled_tile(*x) for x in tiles], 10, 2)


def test_each_tile_gives_the_same_number_of_pixels() -> None:
    tiles = [labelled_tile(*[number % 2] * 50) for number in range(6)]
    samples = sample_pixels({"zeros": zeros, "more": zeros}, tiles, 30, 2)
    assert [np.bincount(x.tiles).tolist() for of_kind in samples.values() for x in of_kind] == [[5] * 6] * 4


@pytest.mark.parametrize("d", [3, 20])
@pytest.mark.parametrize("neighbours", [1, 4, 20])
def test_neighbours_are_the_nearest_and_the_first_of_equally_many_classes_counts(
    d: int, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "BLOCK_NUMBERS", 40_000)  # several blocks
    features, labels = mixed(500, d, 3)
    bank, queries = features[:400], features[100:]  # some pixels are of the bank
    classifier = NearestNeighbours.fit(bank, labels[:400], neighbours, torch.device("cpu"))
    predicted = classifier.predict(queries)
    mean, deviation = bank.mean(0, dtype=float), bank.std(0, dtype=float)
    ties = 0
    for query, answer in zip(queries, predicted, strict=True):
        distance = (((bank - mean) / deviation - (query - mean) / deviation) ** 2).sum(1)
        votes = np.bincount(labels[:400][np.argsort(distance)[:neighbours]])
        assert answer == votes.argmax()
        ties += (votes == votes.max()).sum() > 1
    assert ties > 0 or neighbours == 1


def test_all_of_a_small_bank_vote() -> None:
    features, labels = mixed(7, 3, 2)
    predicted = NearestNeighbours.fit(features, labels, 20, torch.device("cpu")).predict(features)
    assert (predicted == np.bincount(labels).argmax()).all()


def test_few_labels_are_as_many_of_each_class() -> None:
    labels = np.array([0] * 1000 + [1] * 100 + [2] * 5)
    drawn = draw_of_each_class(labels, 50, np.random.default_rng(0))
    assert len(set(drawn)) == len(drawn)
    assert np.bincount(labels[drawn]).tolist() == [50, 50, 5]


def test_a_bank_is_drawn_by_class() -> None:
    labels = np.array([0] * 1000 + [1] * 100 + [2] * 5)
    drawn = labels[draw_by_class(labels, 105, np.random.default_rng(0))]
    assert np.bincount(drawn).tolist() == [50, 50, 5]
    assert len(draw_by_class(labels, 5000, np.random.default_rng(0))) == len(labels)
