"""The linear probe and the nearest neighbours."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hybrid_patch.data.crops import Crop
from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.evaluate.features import Tile
from hybrid_patch.evaluate.knn import draw_by_class, fit_knn
from hybrid_patch.evaluate.linear_probe import fit_linear_probe, logistic_regression
from hybrid_patch.evaluate.pixel_sampling import NotEnoughLabelsError, sample_pixels

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
    probe = logistic_regression(features, labels, decay)
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
    a, b = (logistic_regression(x, labels, 1e-4).predict(x) for x in (features, worse))
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
        sample_pixels(lambda tile: np.zeros((*tile.valid_mask.shape, 2)), [labelled_tile(*x) for x in tiles], 10, 2)


def test_each_tile_gives_the_same_number_of_pixels() -> None:
    tiles = [labelled_tile(*[number % 2] * 50) for number in range(6)]
    samples = sample_pixels(lambda tile: np.zeros((*tile.valid_mask.shape, 2)), tiles, 30, 2)
    assert [np.bincount(sample.tiles).tolist() for sample in samples] == [[5] * 6] * 2


@pytest.mark.parametrize("d", [3, 20])
def test_neighbours_are_the_nearest(d: int) -> None:
    features, labels = mixed(400, d, 3)
    knn = fit_knn(features, labels, 10_000, np.random.default_rng(0))
    standard = (features - features.mean(0)) / features.std(0)
    for place in range(0, 400, 23):
        nearest = np.argsort(((standard - standard[place]) ** 2).sum(1), kind="stable")[:20]
        votes = np.bincount(labels[nearest])
        assert votes[knn.predict(features[place : place + 1])[0]] == votes.max()


def test_a_bank_is_drawn_by_class() -> None:
    labels = np.array([0] * 1000 + [1] * 100 + [2] * 5)
    drawn = labels[draw_by_class(labels, 105, np.random.default_rng(0))]
    assert np.bincount(drawn).tolist() == [50, 50, 5]
    assert len(draw_by_class(labels, 5000, np.random.default_rng(0))) == len(labels)
