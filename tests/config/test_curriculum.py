"""Which sizes a step is trained at: in turn, mixed, and on crops of which size; and a run over several stages."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from building import TINY, trained_run
from hypothesis import given
from hypothesis import strategies as st

from hybrid_patch import load
from hybrid_patch.config.compose import compose
from hybrid_patch.config.curriculum import PatchSizes, all_sizes, sizes_after, sizes_at, tile_for
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.predict import predict
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import RunDirectory

SIZES = {
    "gradual": [(8, 8), (8, 4), (8, 2), (8, 1)],
    "gradual_joint": [(8, 8), (4, 4), (2, 2), (1, 1)],
    "mixed": [(8, 8), (8, 4), (8, 2), (8, 1)],
}


def config_for(curriculum: str, *overrides: str) -> Config:
    return compose([*TINY, f"curriculum={curriculum}", *overrides])


@given(steps=st.integers(1, 500), shares=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_stages_take_their_shares_in_turn(steps: int, shares: list[int]) -> None:
    stages = ",".join(
        f"{{processing_patch_size:8,output_patch_size:{2 ** (i % 4)},share:{share / sum(shares)}}}"
        for i, share in enumerate(shares)
    )
    last = f"patch.output_patch_size={2 ** ((len(shares) - 1) % 4)}"
    words = [f"curriculum.stages=[{stages}]", last, f"trainer.steps={steps}", "upsampler=subpixel"]
    config = config_for("gradual", *words)
    sizes_by_step = [sizes_at(config, step) for step in range(steps)]
    ends = [round(sum(shares[: i + 1]) / sum(shares) * steps) for i in range(len(shares))]
    begins = [0, *ends]
    for i, sizes in enumerate(all_sizes(config.curriculum)):
        near = [abs(begins[i] - sum(shares[:i]) / sum(shares) * steps) <= 0.5, ends[-1] == steps]
        assert all(near)
        inside = range(begins[i] + 1, ends[i] - 1)  # a border may lie on a half
        assert all(sizes_by_step[step] == sizes for step in inside)
    assert sizes_after(config, steps) == all_sizes(config.curriculum)[-1] or ends[-1] == ends[-2]


def test_a_mixed_curriculum_draws_by_share_and_by_seed_and_step() -> None:
    config = config_for("mixed", "trainer.steps=2000")
    drawn = [sizes_at(config, step) for step in range(2000)]
    counts = Counter(drawn)
    for stage, sizes in zip(config.curriculum.stages, all_sizes(config.curriculum), strict=True):
        assert counts[sizes] / 2000 == pytest.approx(stage.share, abs=0.04)
    assert drawn == [sizes_at(config, step) for step in range(2000)]
    other = config_for("mixed", "trainer.steps=2000", "seed=1")
    assert drawn != [sizes_at(other, step) for step in range(2000)]
    assert sizes_after(config, 7) == PatchSizes(8, 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("curriculum", "tiles"), [("gradual", [16] * 4), ("gradual_joint", [16, 8, 4, 2])])
def test_a_budget_of_tokens_makes_crops_smaller(curriculum: str, tiles: list[int]) -> None:
    config = config_for(curriculum, "trainer.steps=40")
    assert [tile_for(config, sizes) for sizes in all_sizes(config.curriculum)] == tiles
    dataset = TrainingSteps(open_source(config.data), config, 0, 1)
    shapes = {}
    for step in (0, 39):
        batch = dataset[step]
        assert isinstance(batch, Batch)
        pixels = batch.pixels["sentinel2_l2a"]
        shapes[step] = pixels.shape[1], batch.masks["sentinel2_l2a"].shape[1]
    assert [shapes[0][0], shapes[39][0]] == [tiles[0], tiles[-1]]
    if curriculum == "gradual_joint":
        assert shapes[0][1] == shapes[39][1] == 2
        memory = [cost.record.peak for cost in predict(config).costs]
        assert max(memory) < 2 * min(memory)  # as many tokens, but 64 times as many pixels have statistics


@pytest.mark.sample(1)
@pytest.mark.parametrize("curriculum", list(SIZES))
@pytest.mark.parametrize("upsampler", ["bilinear", "learned", "subpixel", "guided", "transposed"])
def test_a_run_over_all_stages_and_one_that_was_stopped_are_the_same(
    curriculum: str, upsampler: str, tmp_path: Path
) -> None:
    overrides = [*TINY, f"curriculum={curriculum}", f"upsampler={upsampler}"]
    whole = RunDirectory(trained_run(tmp_path / "whole", *overrides, steps=10))
    rows = whole.metrics()
    assert [(r["processing_patch_size"], r["output_patch_size"]) for r in rows] == [
        tuple(sizes_at(config_for(curriculum, "trainer.steps=10"), step)) for step in range(10)
    ]
    if curriculum != "mixed":
        assert [(rows[0]["processing_patch_size"], rows[0]["output_patch_size"])] == SIZES[curriculum][:1]
        assert {(r["processing_patch_size"], r["output_patch_size"]) for r in rows} == set(SIZES[curriculum])
    again = RunDirectory(trained_run(tmp_path / "again", *overrides, steps=10, stop_after=6))
    assert [row["loss"] for row in again.metrics()] == [row["loss"] for row in rows]
    a, b = (load(run.path).network.state_dict() for run in (whole, again))
    assert all(torch.equal(x, b[name]) for name, x in a.items())
    assert load(whole.path).sizes == all_sizes(config_for(curriculum).curriculum)[-1]


def test_a_tile_that_has_no_whole_crop_at_every_stage_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.tile=12"):
        config_for("gradual_joint", "data.tile=12")
