"""`target=self`: what the teacher says, its cache, and trainings that stop and go on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from building import TINY, StopAfter, trained_run

from hybrid_patch.config.compose import compose, frozen_config
from hybrid_patch.config.recipe import identity
from hybrid_patch.data.patchify import patchify
from hybrid_patch.data.source import open_source
from hybrid_patch.data.taught import PART, TaughtWindows
from hybrid_patch.embed.per_pixel import unmasked_batch
from hybrid_patch.runs.checkpoints import newest_checkpoint
from hybrid_patch.runs.directory import CHECKPOINTS, METRICS
from hybrid_patch.runs.stop_signal import Stopped
from hybrid_patch.train.attempt import train
from hybrid_patch.train.step import TrainingModule
from hybrid_patch.train.teacher import taught_windows

OWN = (
    *TINY,
    "target=self",
    "loss=visible",
    "masking=none",
    "upsampler.pixel_dropout=0",
    "target.window=8",
    "target.windows=40",
    "target.numbers=16",
    "init.freeze=[encoder]",
    "model.centre_positions=true",
    "trainer.steps=6",
)


def teach(folder: Path, *words: str, check: object = lambda: None) -> tuple[TrainingModule, TaughtWindows]:
    config = compose([*OWN, *words])
    source = open_source(config.data)
    torch.manual_seed(config.seed)
    module = TrainingModule(config, source.modalities)
    recipe = identity(config)["recipe"]
    return module, taught_windows(config, source, module, recipe, folder, check, quiet=True)  # type: ignore[arg-type]


def test_the_numbers_are_those_of_the_encoder_at_patch_size_1(tmp_path: Path) -> None:
    module, taught = teach(tmp_path)
    (cache,) = tmp_path.iterdir()
    with np.load(cache / "space.npz") as arrays:
        space = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    for number in (0, 7, 39):
        window = taught.window(number)
        crop = taught.read(window, window.window)
        batch = module.model.whitened(unmasked_batch([crop], 1, taught.source.modalities, {}))
        _, grids = module.model.encode({name: patchify(x, 1) for name, x in batch.pixels.items()}, batch)
        for name, grid in grids.items():
            tokens = grid.tokens[0] - space[f"{name}/positions"] - space[f"{name}/mean"]
            expected = torch.where(grid.mask[0][..., None], tokens @ space[f"{name}/projection"], 0)
            numbers = torch.from_numpy(taught.numbers(number)[name]).float()
            torch.testing.assert_close(numbers, expected, rtol=2e-3, atol=2e-3)


def test_crops_have_their_window_on_the_coarse_grid(tmp_path: Path) -> None:
    config = compose(OWN)
    source = open_source(config.data)
    target = config.target
    taught = TaughtWindows(source, target, 16, 2, 8, tmp_path)  # type: ignore[arg-type]
    for number in range(len(taught)):
        window = taught.window(number)
        expected = taught.read(window, window.window)
        for seed in range(3):
            crop, (row, column) = taught.crop(window, np.random.default_rng(seed))
            assert row % 8 == column % 8 == 0
            for name, pixels in crop.pixels.items():
                np.testing.assert_array_equal(pixels[row : row + 8, column : column + 8], expected.pixels[name])


def test_the_cache_is_shared_and_made_once(tmp_path: Path) -> None:
    teach(tmp_path)
    (cache,) = tmp_path.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert sorted(before) == [*(f"part_{part:05d}.npz" for part in range(-(-40 // PART))), "space.npz"]
    teach(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == before
    teach(tmp_path, "target.jitter=0")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.full
def test_a_stop_keeps_what_is_made(tmp_path: Path) -> None:
    stop = StopAfter(75)  # the space takes 40 windows, the first part 32
    with pytest.raises(Stopped):
        teach(tmp_path, check=stop.check)
    (cache,) = tmp_path.iterdir()
    assert sorted(path.name for path in cache.iterdir()) == ["part_00000.npz", "space.npz"]
    _, taught = teach(tmp_path)
    _, fresh = teach(tmp_path / "fresh")
    for number in range(40):
        for name, numbers in taught.numbers(number).items():
            np.testing.assert_array_equal(numbers, fresh.numbers(number)[name])


@pytest.mark.full
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path, pretrained: bool) -> None:
    words = [*OWN, f"init.from={trained_run(tmp_path / 'before', *TINY, steps=1)}"] if pretrained else OWN
    whole = compose([*words, f"run_dir={tmp_path / 'whole'}"])
    assert train(whole) == 0
    parted = compose([*words, f"run_dir={tmp_path / 'parted'}", "trainer.checkpoint_every=3"])
    assert train(parted) == 0
    checkpoints = sorted((tmp_path / "parted" / CHECKPOINTS).glob("step_*"))
    checkpoints[-1].unlink()
    for path in (tmp_path / "parted" / "teacher").rglob("part_*"):
        path.unlink()  # made again, by the weights that the training began with
    status = tmp_path / "parted" / "status.json"
    status.write_text(status.read_text().replace('"done"', '"preempted"'))
    assert train(frozen_config(tmp_path / "parted")) == 0
    states = [newest_checkpoint(tmp_path / name / CHECKPOINTS) for name in ("whole", "parted")]
    first, second = (state.state for state in states if state is not None)
    assert all(torch.equal(first["model"][name], tensor) for name, tensor in second["model"].items())
    assert all(torch.equal(first["objective"][name], tensor) for name, tensor in second["objective"].items())
    assert (tmp_path / "whole" / METRICS).exists()


@pytest.mark.full
def test_the_upsampler_comes_closer_to_its_teacher(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "plain", *TINY, steps=1)
    words = [*OWN, "trainer.steps=60", "optimizer.lr=0.01", f"init.from={run}", f"run_dir={tmp_path / 'run'}"]
    assert train(compose(words)) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    losses = [row["regression"] for row in rows]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
