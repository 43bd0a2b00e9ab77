"""The figures that need no labels, on embeddings whose figures are known."""

import numpy as np
import pytest

from hybrid_patch.evaluate.unsupervised import Structure, StructureAccumulator

Array = np.ndarray
RNG = np.random.default_rng(0)
ALL_VALID = np.ones((64, 64), bool)


def structure(embedding: Array, valid_mask: Array = ALL_VALID) -> Structure:
    gathered = StructureAccumulator(8)
    gathered.add(embedding.astype(np.float32), valid_mask)
    figures = gathered.result()
    assert figures is not None
    return figures


def smooth(noise: float) -> Array:
    y, x = np.mgrid[:64, :64] / 64
    return np.stack([np.sin(3 * x + y), np.cos(2 * y), x * y], -1) + noise * RNG.normal(size=(64, 64, 3))


def test_a_lattice_shows_where_there_is_one() -> None:
    assert structure(smooth(0.1)).lattice_ratio == pytest.approx(1, abs=0.05)
    steps = RNG.normal(size=(8, 8, 3)).repeat(8, 0).repeat(8, 1)
    ratio = structure(smooth(0.1) + 0.3 * steps).lattice_ratio
    assert ratio is not None
    assert ratio > 2
    assert structure(steps).lattice_ratio is None  # inside patches nothing changes at all


def test_the_effective_rank_is_the_number_of_directions() -> None:
    flat = RNG.normal(size=(64, 64, 5)) @ RNG.normal(size=(5, 5))
    isotropic = RNG.normal(size=(64, 64, 5))
    assert structure(isotropic).effective_rank == pytest.approx(5, rel=0.01)
    assert 1 < structure(flat).effective_rank < 5
    line = RNG.normal(size=(64, 64, 1)) * np.ones(5)
    assert structure(line + 3).effective_rank == pytest.approx(1, abs=0.05)


def test_neighbours_are_alike_where_embeddings_are_smooth() -> None:
    assert structure(smooth(0)).neighbour_similarity > 0.99
    assert structure(RNG.normal(size=(64, 64, 16))).neighbour_similarity == pytest.approx(0, abs=0.02)


def test_pixels_that_were_not_measured_do_not_count() -> None:
    valid_mask = RNG.random((64, 64)) < 0.9
    embedding = smooth(0.1)
    with_junk = np.where(valid_mask[..., None], embedding, 1e3)
    for a, b in zip(structure(embedding, valid_mask), structure(with_junk, valid_mask), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    nothing = StructureAccumulator(8)
    nothing.add(embedding, np.zeros((64, 64), bool))
    assert nothing.result() is None
