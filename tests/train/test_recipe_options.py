"""A training with what OlmoEarth's recipe adds goes on where it stopped, and its embeddings leave nothing out."""

from pathlib import Path

import numpy as np
import torch
from building import TINY, trained_run

import hybrid_patch
from hybrid_patch.runs.checkpoints import newest_checkpoint
from hybrid_patch.runs.directory import CHECKPOINTS

OPTIONS = (
    *TINY,
    "model.encoder.drop_path=0.3",
    "model.decoder.drop_path=0.2",
    "model.pixel_hidden_width=6",
    "masking=random_time_with_decode",
    "masking.band_dropout={sentinel2_l2a:0.9}",
)


def test_a_resumed_run_leaves_out_the_same_and_an_embedding_nothing(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trained_run(whole, *OPTIONS, steps=3)
    trained_run(parts, *OPTIONS, steps=3, stop_after=1)
    first, second = (newest_checkpoint(run / CHECKPOINTS) for run in (whole, parts))
    assert first is not None
    assert second is not None
    assert (first.step, second.step) == (3, 3)
    for name, weight in first.state["model"].items():
        assert torch.equal(second.state["model"][name], weight)
    model = hybrid_patch.load(whole, "cpu")
    image = np.random.default_rng(0).uniform(0, 3000, (16, 16, 2, 12)).astype(np.float32)
    once, again = (model.embed({"sentinel2_l2a": image}, ["2024-05-31", "2024-07-01"]) for _ in range(2))
    assert np.array_equal(once, again)
    assert np.isfinite(once).all()
