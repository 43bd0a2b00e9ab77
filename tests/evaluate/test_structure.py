"""The figures that need no labels, on embeddings whose figures are known."""

import numpy as np
import pytest
import torch

from hybrid_patch.data.source import Window
from hybrid_patch.embed.windows import Blender, Tiling
from hybrid_patch.evaluate.unsupervised import Structure, StructureAccumulator, WindowAccumulator

Array = np.ndarray
RNG = np.random.default_rng(0)
ALL_VALID = np.ones((64, 64), bool)
TILING = Tiling(16, 12)


def structure(embedding: Array, valid_mask: Array = ALL_VALID) -> Structure:
    gathered = StructureAccumulator(8, TILING)
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
    assert structure(steps + 1e-6 * smooth(0.1)).lattice_ratio is None  # but for rounding


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
        assert a == b or a == pytest.approx(b, rel=1e-5)
    nothing = StructureAccumulator(8, TILING)
    nothing.add(embedding, np.zeros((64, 64), bool))
    assert nothing.result() is None


def windowed(ground: Array, part: Window, offsets: float, evened: float = 0) -> Array:
    """A map of a part of the ground, blended of windows that each add an offset, or take off a share of their mean."""
    rng, (side, _) = np.random.default_rng(0), TILING
    image = ground[part.slices]
    tops, lefts = (TILING.starts(length) for length in image.shape[:2])
    blender = Blender(len(image), TILING, lefts)

    def window(top: int, left: int) -> torch.Tensor:
        values = image[top : top + side, left : left + side]
        return torch.from_numpy(values + offsets * rng.normal(size=3) - evened * values.mean((0, 1))).float()

    rows = [blender.add(top, [torch.stack([window(top, left) for left in lefts])]) for top in tops]
    return torch.cat(rows).numpy()


def window_ratio(offsets: float = 0, evened: float = 0, gaps: bool = False) -> float | None:
    """Over four tiles of 70 × 83 pixels, in which some are missing if there are `gaps`, with junk in their place."""
    windows, rng = WindowAccumulator(TILING), np.random.default_rng(1)
    for _ in range(4):
        ground = rng.normal(size=(10, 12, 3)).repeat(7, 0).repeat(7, 1)[:, :83] + rng.normal(size=(70, 83, 3)) * [
            3,
            2,
            1,
        ]
        valid_mask = np.ones((70, 83), bool)
        if gaps:
            valid_mask[rng.integers(70, size=500), rng.integers(83, size=500)] = False
            valid_mask[20:40, 30:50] = False
        parts = windows.parts(70, 83)
        maps = [windowed(ground, part, offsets, evened) for part in parts]
        for part, values in zip(parts, maps, strict=True):
            values[~valid_mask[part.slices]] = 1e3
        windows.add(maps[0], maps[1], valid_mask[parts[0].slices])
    return windows.ratio()


@pytest.mark.parametrize("gaps", [False, True])
def test_windows_show_where_each_has_its_own_offset(gaps: bool) -> None:
    assert window_ratio(gaps=gaps) == pytest.approx(1, abs=1e-4)  # the same ground, however it varies
    slight, plain = window_ratio(offsets=0.2, gaps=gaps), window_ratio(offsets=2, gaps=gaps)
    evened = window_ratio(evened=0.7, gaps=gaps)
    assert None not in (slight, plain, evened)
    assert 1.02 < slight < plain  # type: ignore[operator]
    assert plain > 2  # type: ignore[operator]
    assert evened < 0.95  # type: ignore[operator]


def test_all_windows_of_the_maps_are_a_stride_apart() -> None:
    windows = WindowAccumulator(TILING)
    assert windows.least_side == 16 + 4 * 12
    assert windows.parts(64, 100) == (Window(0, 0, 64, 100), Window(6, 6, 52, 88))
    assert windows.parts(75, 99) == (Window(0, 0, 64, 88), Window(6, 6, 52, 76))


def test_without_maps_nothing_is_said_of_windows() -> None:
    assert structure(smooth(0.1)).window_ratio is None
    windows = WindowAccumulator(TILING)
    windows.add(np.ones((52, 52, 5)), np.ones((40, 40, 5)), np.zeros((52, 52), bool))
    windows.add(np.ones((52, 52, 5)), np.ones((40, 40, 5)), np.ones((52, 52), bool))
    assert windows.ratio() is None


def test_what_others_accumulated_is_merged() -> None:
    rng = np.random.default_rng(0)
    tiles = rng.normal(size=(3, 64, 64, 5)).astype(np.float32)
    together, merged = StructureAccumulator(8, TILING), StructureAccumulator(8, TILING)
    for tile in tiles:
        alone = StructureAccumulator(8, TILING)
        for accumulator in (together, alone):
            accumulator.add(tile, ALL_VALID)
            accumulator.windows.add(tile, tile[6:58, 6:58], ALL_VALID)
        merged.merge(alone)
        merged.merge(StructureAccumulator(8, TILING))
    assert merged.result() == together.result()
