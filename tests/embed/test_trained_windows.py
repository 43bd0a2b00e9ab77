"""Windows in the maps of trained models: by default none shows."""

from pathlib import Path

import pytest
from building import TINY, trained_run

import hybrid_patch
from hybrid_patch.data.source import open_source
from hybrid_patch.evaluate.features import read_tiles
from hybrid_patch.evaluate.unsupervised import WindowAccumulator

RECIPE = (
    *TINY,
    *("~data.modalities.sentinel1", "~data.modalities.srtm", "data.timesteps=1", "data.tile=32", "data.scene_size=128"),
    *("data.scenes=8", "trainer.batch_size=6", "optimizer.lr=0.003", "patch=hybrid", "upsampler=guided"),
)


def window_ratio(run: Path) -> float | None:
    """Of five scenes of 5 × 5 windows."""
    model = hybrid_patch.load(run, "cpu")
    windows = WindowAccumulator(model.tiling())
    for tile in read_tiles(open_source(model.config.data), "train", 5, 1):
        parts = windows.parts(*tile.valid_mask.shape)
        whole, shifted = (model.embed_whole(tile.whole.window(part), model.tiling()) for part in parts)
        windows.add(whole, shifted, tile.valid_mask)
    return windows.ratio()


@pytest.mark.full
def test_no_window_shows_after_a_training(tmp_path: Path) -> None:
    ratio = window_ratio(trained_run(tmp_path / "run", *RECIPE, steps=60))
    assert ratio is not None
    assert 0.8 < ratio < 1.1
