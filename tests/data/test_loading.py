"""(seed, step) alone decides what a step sees."""

import numpy as np
import pytest
import torch
from building import small, some_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import Memory

from hybrid_patch.data.batch import Batch
from hybrid_patch.data.crops import read_crop
from hybrid_patch.data.loader import TrainingSteps, batches
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.prefetch import on_device
from hybrid_patch.data.source import BrokenSampleError, Window

Array = np.ndarray


def steps(source: Memory, *overrides: str, rank: int = 0, world: int = 1) -> TrainingSteps:
    return TrainingSteps(source, small("trainer.batch_size=4", "trainer.steps=6", *overrides), rank, world)


def batch_of(dataset: TrainingSteps, step: int) -> Batch:
    """The batch of a step that meets no broken sample it cannot replace."""
    batch = dataset[step]
    assert isinstance(batch, Batch)
    return batch


def tensors(batch: Batch) -> list[torch.Tensor]:
    collected: list[torch.Tensor] = []

    def note(x: torch.Tensor) -> torch.Tensor:
        collected.append(x)
        return x

    batch.map(note)
    return collected


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def source_indices(batch: Batch) -> list[int]:
    """The numbers of the samples, read off their pixels (undoing the normalisation of mean 0 and deviation 1)."""
    return (batch.pixels["optical"][:, 0, 0, 0, 0] * 4 - 2).round().int().tolist()


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 4])
def test_batches_do_not_depend_on_workers_or_the_first_step(workers: int, start: int) -> None:
    dataset = steps(Memory())
    expected = [batch_of(dataset, step) for step in range(start, 6)]
    loaded = list(batches(dataset, start, workers, pin_memory=False))
    assert len(loaded) == len(expected)
    assert all(isinstance(a, Batch) and equal(a, b) for a, b in zip(loaded, expected, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_out_the_batch_of_one(world: int) -> None:
    options = "upsampler=bilinear"  # looks at no pixels: `some_samples` drops the guide's masks
    whole = batch_of(steps(Memory(), options), 3)
    parts = [batch_of(steps(Memory(), options, rank=rank, world=world), 3) for rank in range(world)]
    for rank, part in enumerate(parts):
        assert equal(some_samples(whole, slice(rank * 4 // world, (rank + 1) * 4 // world)), part)


def test_each_epoch_sees_every_training_sample_once_in_another_order() -> None:
    dataset = steps(Memory())
    indices = [index for step in range(6) for index in source_indices(batch_of(dataset, step))]
    epochs = [indices[:8], indices[8:16], indices[16:]]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    reseeded = steps(Memory(), "seed=1")
    other = [index for step in range(2) for index in source_indices(batch_of(reseeded, step))]
    assert other != epochs[0]


def test_what_the_loss_draws_by_is_the_steps_own() -> None:
    options = ("patch=hybrid", "loss.max_queries=32")
    first, again, other = (batch_of(steps(Memory(), *options), step).query_sampling for step in (2, 2, 3))
    assert sorted(first.subpixels.tolist()) == list(range(64))
    assert first.strata.shape == (32,)
    assert torch.equal(first.subpixels, again.subpixels)
    assert torch.equal(first.strata, again.strata)
    assert not torch.equal(first.subpixels, other.subpixels)
    assert not torch.equal(first.strata, other.strata)


def test_the_pixels_that_guide_are_the_sample_s_own_draw() -> None:
    source = Memory()
    assert not batch_of(steps(source, "upsampler=subpixel"), 0).guide_mask
    guided = batch_of(steps(source, "upsampler=guided", "upsampler.pixel_dropout=0.25"), 3)
    again = batch_of(steps(source, "upsampler=guided", "upsampler.pixel_dropout=0.25"), 3)
    for name, guide_mask in guided.guide_mask.items():
        assert guide_mask.shape == (guided.views * len(guided.timestamps), *guided.valid[name].shape[1:])
        assert guide_mask.float().mean() == pytest.approx(0.75, abs=0.05)
        assert torch.equal(guide_mask, again.guide_mask[name])
        assert not torch.equal(guide_mask[0], guide_mask[1])
    assert set(guided.guide_mask) == set(guided.encoded.each)


@pytest.mark.parametrize("views", [1, 2])
def test_a_sample_has_as_many_maskings_as_asked_for(views: int) -> None:
    batch = batch_of(steps(Memory(), f"masking.views={views}", "loss.instance.weight=0"), 0)
    assert batch.views == views
    assert len(batch.masks["optical"]) == 4 * views
    assert batch.encoded.together.index.shape[0] == 4 * views


@pytest.mark.full
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), step=st.integers(0, 5))
def test_crops_are_pieces_of_their_sample_with_ascending_timesteps(seed: int, step: int) -> None:
    batch = batch_of(steps(Memory(), f"seed={seed}"), step)
    values = (batch.pixels["optical"] * 4 - 2).round().int()
    assert values.shape == (4, 16, 16, 2, 4)
    rows, columns, times = values[..., 1], values[..., 2], values[..., 3]
    assert (rows.diff(dim=1) == 1).all()
    assert (columns.diff(dim=2) == 1).all()
    assert rows.min() >= 0
    assert rows.max() < 20
    assert columns.max() < 24
    assert (times.diff(dim=3) > 0).all()
    assert torch.equal(batch.timestamps[:, :, 0], times[:, 0, 0] + 1)
    assert not batch.valid["height"].any()
    assert (batch.masks["height"] == Mask.MISSING).all()
    assert not torch.equal(batch.masks["optical"][::2], batch.masks["optical"][1::2])


def test_a_sample_smaller_than_the_tile_is_filled_up_with_missing_pixels() -> None:
    batch = batch_of(steps(Memory(size=(10, 16)), "data.timesteps=5"), 0)
    valid = batch.valid["optical"]
    assert valid.shape == (4, 16, 16, 5)
    assert valid[:, :10, :, :3].all()
    assert not valid[:, 10:].any()
    assert not valid[..., 3:].any()
    assert not batch.pixels["optical"][~valid].any()
    assert (batch.masks["optical"][:, 1, :, 0] != Mask.MISSING).all()  # rows 8 to 15: some of their pixels are there
    assert (batch.masks["optical"][..., 3:, :] == Mask.MISSING).all()


def test_map_codes_become_channels() -> None:
    part = read_crop(Memory(), 0, Window(0, 0, 8, 8), np.array([1]), 1)
    assert part.pixels["cover"][0, 0, 0].tolist() == [0, 1, 0, 0]
    assert part.labels is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_comes_as_an_error_with_its_name(workers: int) -> None:
    loaded = batches(steps(Memory(broken=(3,))), 0, workers, pin_memory=False)
    items = list(on_device(loaded, torch.device("cpu")))
    broken = [item for item in items if isinstance(item, BrokenSampleError)]
    assert {str(error) for error in broken} == {"sample 3: truncated"}
    assert len(broken) == 3  # once in each epoch


def test_a_sample_that_is_mostly_missing_is_cropped_where_it_is_not() -> None:
    source = Memory(size=(200, 200), only=(150, 170, 2))
    for step in range(6):
        batch = batch_of(steps(source, "data.timesteps=1"), step)
        assert batch.valid["optical"].flatten(1).sum(1).tolist() == [1, 1, 1, 1]
        values = (batch.pixels["optical"][batch.valid["optical"]] * 4 - 2).round().int()
        assert values[:, 1:].tolist() == [[150, 170, 2]] * 4


@pytest.mark.parametrize("kind", ["broken", "empty"])
def test_another_sample_stands_in_for_one_that_is_skipped(kind: str) -> None:
    clean = steps(Memory())
    source = Memory(broken=(3, 5)) if kind == "broken" else Memory(empty=(3, 5))
    dataset = steps(source, "data.on_error=skip")
    skipped: list[str] = []
    for step in range(6):
        batch, expected = batch_of(dataset, step), batch_of(clean, step)
        assert equal(batch, batch_of(dataset, step))
        for i, index in enumerate(source_indices(expected)):
            if index not in (3, 5):
                assert source_indices(batch)[i] == index
        assert not {3, 5} & set(source_indices(batch))
        skipped += batch.skipped
    assert len(skipped) >= 6  # two samples in three epochs
    assert {message.split(":")[0] for message in skipped} == {"sample 3", "sample 5"}


def test_nothing_but_broken_samples_is_an_error_even_when_skipping() -> None:
    dataset = steps(Memory(broken=tuple(range(8))), "data.on_error=skip")
    assert "20 broken samples in a row" in str(dataset[0])
