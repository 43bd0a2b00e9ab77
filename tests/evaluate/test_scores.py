"""Scores from counts against scikit-learn, and the maps of mixed patches and boundaries by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.evaluate.label_maps import block_majority, boundary_pixels, mixed_patches
from hybrid_patch.evaluate.pixel_sampling import draw_scored
from hybrid_patch.evaluate.scores import ConfusionCounts, accuracy, class_iou, confusions, miou, part_masks

Array = np.ndarray
NAMES = ("a", "b", "c", "d")
maps = arrays(np.int64, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(UNLABELLED, 3))


@given(labels=maps, seed=st.integers(0, 9))
def test_scores_are_those_of_scikit_learn(labels: Array, seed: int) -> None:
    predicted = np.random.default_rng(seed).integers(4, size=labels.shape)
    counts = confusions(labels, predicted, 4, part_masks(labels, 8))[0]  # all pixels
    label_mask = labels != UNLABELLED
    if not label_mask.any():
        assert not counts.any()
        return
    truth, guess = labels[label_mask], predicted[label_mask]
    classes = np.unique(truth)
    assert (counts == confusion_matrix(truth, guess, labels=range(4))).all()
    assert miou(counts[None])[0] == pytest.approx(
        jaccard_score(truth, guess, labels=classes, average="macro", zero_division=0)
    )
    assert accuracy(counts[None])[0] == pytest.approx(accuracy_score(truth, guess))
    assert np.isnan(class_iou(counts[None])[0]).tolist() == [value not in classes for value in range(4)]


@given(labels=maps, side=st.integers(1, 5))
def test_maps_of_labels_are_those_of_plain_loops(labels: Array, side: int) -> None:
    mixed, boundary, majority = mixed_patches(labels, side), boundary_pixels(labels), block_majority(labels, side)
    height, width = labels.shape
    for i in range(height):
        for j in range(width):
            top, left = i // side * side, j // side * side
            block = labels[top : top + side, left : left + side]
            labelled = block[block != UNLABELLED]
            label = labels[i, j]
            assert mixed[i, j] == (label != UNLABELLED and len(np.unique(labelled)) > 1)
            neighbours = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
            others = [labels[y, x] for y, x in neighbours if 0 <= y < height and 0 <= x < width]
            assert boundary[i, j] == (label != UNLABELLED and any(o not in (label, UNLABELLED) for o in others))
            assert majority[i, j] == (np.bincount(labelled).argmax() if len(labelled) else UNLABELLED)


def test_nothing_is_better_per_patch_than_its_majority() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=(32, 32))
    best = (block_majority(labels, 8) == labels).mean()
    for _ in range(20):
        other = rng.integers(4, size=(4, 4)).repeat(8, 0).repeat(8, 1)
        assert (other == labels).mean() <= best


def test_a_bootstrap_draws_groups_and_not_tiles() -> None:
    """Ten tiles of one group are one: there is nothing to draw. As ten groups they spread."""
    rng = np.random.default_rng(0)
    together, separate = ConfusionCounts(NAMES), ConfusionCounts(NAMES)
    for tile in range(10):
        labels = rng.integers(4, size=(16, 16))
        predicted = np.where(rng.random((16, 16)) < tile / 10, labels, 0)
        together.add(0, 7, labels, predicted, part_masks(labels, 8))
        separate.add(0, tile, labels, predicted, part_masks(labels, 8))
    single, spread = together.report()["all"]["accuracy"], separate.report()["all"]["accuracy"]
    assert isinstance(single, dict)
    assert isinstance(spread, dict)
    assert single["low"] == single["mean"] == single["high"] == pytest.approx(spread["mean"])
    assert spread["low"] < spread["mean"] - 0.05 < spread["mean"] + 0.05 < spread["high"]


def test_a_report_has_support_and_leaves_out_what_is_not_there() -> None:
    counts = ConfusionCounts(NAMES)
    labels = np.zeros((16, 16), np.int64)
    labels[:, 8:] = 2  # whole patches: nothing is mixed
    for seed in (0, 1):
        counts.add(seed, 0, labels, np.full((16, 16), 2 * seed), part_masks(labels, 8))
    report = counts.report()
    assert set(report) == {"all", "boundary"}
    assert report["all"]["classes"] == {
        "a": {"iou": pytest.approx(0.25), "support": 128},
        "c": {"iou": pytest.approx(0.25), "support": 128},
    }
    assert report["all"]["miou"]["seeds"] == pytest.approx([0.25, 0.25])  # type: ignore[index]
    assert report["boundary"]["classes"]["a"]["support"] == 16  # type: ignore[index]


def test_the_difference_of_two_is_drawn_from_the_same_groups() -> None:
    """Groups differ widely; one classifier is a little better in each of them, which the interval shows."""
    rng = np.random.default_rng(0)
    better, worse = ConfusionCounts(NAMES), ConfusionCounts(NAMES)
    for group in range(12):
        labels = rng.integers(4, size=(16, 16))
        order = rng.random((16, 16))
        for counts, share in ((better, group / 12 + 0.08), (worse, group / 12)):
            predicted = np.where(order < share, labels, (labels + 1) % 4)
            counts.add(0, group, labels, predicted, part_masks(labels, 8))
    above = better.above(worse)["all"]
    assert 0 < above.low < above.mean < above.high
    alone = better.report()["all"]["miou"]
    assert isinstance(alone, dict)
    assert above.high - above.low < (alone["high"] - alone["low"]) / 2
    assert worse.above(better)["all"].high == pytest.approx(-above.low)
    assert better.above(better)["all"] == (0, 0, 0, [0])


def test_pixels_with_a_prediction_stand_for_all_of_their_class() -> None:
    labels = np.array([[0, 0, 0, 0, 1], [UNLABELLED, 0, 0, 1, 2]])
    predicted = np.array([[0, 2, UNLABELLED, UNLABELLED, 1], [0, UNLABELLED, UNLABELLED, UNLABELLED, UNLABELLED]])
    counts = confusions(labels, predicted, 3, part_masks(labels, 8))[0]
    assert counts.tolist() == [[3, 0, 3], [0, 2, 0], [0, 0, 0]]


def test_the_counts_of_drawn_pixels_are_on_average_those_of_all() -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((48, 48)) < 0.9, (np.arange(48) // 20)[:, None], 3)
    labels[0, :6] = 1  # a rare class in the first block, all of which is drawn
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, 0)
    masks = part_masks(labels, 8)
    every, total = confusions(labels, predicted, 4, masks), np.zeros((3, 4, 4))
    for seed in range(300):
        only_drawn = np.full(labels.shape, UNLABELLED)
        pixels = draw_scored(labels, seed, 0, 200)
        only_drawn.ravel()[pixels] = predicted.ravel()[pixels]
        counts = confusions(labels, only_drawn, 4, masks)
        np.testing.assert_allclose(counts[0].sum(1), every[0].sum(1))
        total += counts / 300
    np.testing.assert_allclose(total, every, rtol=0.08, atol=4)
