"""What a training step leaves out of a sample at random: bands and residual branches, by (seed, position) alone."""

import dataclasses

import numpy as np
import pytest
import torch
from building import HEIGHT, OPTICAL, small, some_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import Memory

from hybrid_patch.config.schema import Config, Transformer
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.dropout import draw_band_mask, draw_path_mask
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.errors import InputError

TWO_SETS = dataclasses.replace(OPTICAL, band_sets=(("red", "blue"), ("green", "nir")))


@settings(max_examples=60)
@given(share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_every_band_set_has_a_band_left(share: float, seed: int) -> None:
    mask = draw_band_mask(share, TWO_SETS, np.random.default_rng(seed))
    assert mask.shape == (4,)
    assert mask[[0, 2]].any()
    assert mask[[1, 3]].any()
    assert share or mask.all()
    assert draw_band_mask(share, HEIGHT, np.random.default_rng(seed)).all()


def test_half_the_largest_share_of_the_bands_is_dropped_on_average() -> None:
    bands = tuple(f"b{i}" for i in range(12))
    modality = dataclasses.replace(OPTICAL, bands=bands, band_sets=(bands,), mean=(0.0,) * 12, std=(1.0,) * 12)
    rng = np.random.default_rng(0)
    dropped = np.array([(~draw_band_mask(0.4, modality, rng)).mean() for _ in range(2000)])
    assert dropped.mean() == pytest.approx(0.2, abs=0.01)
    assert dropped.std() > np.sqrt(0.2 * 0.8 / 12)  # more than at one share for all samples


def test_branches_are_left_out_at_their_rate_each_by_itself() -> None:
    size = Transformer(width=16, depth=3, heads=1, mlp_ratio=1.0, drop_path=0.25)
    rng = np.random.default_rng(0)
    mask = np.stack([draw_path_mask(size, 2, rng) for _ in range(2000)]).reshape(2000, -1)
    assert mask.shape[1] == 2 * 3 * 2
    assert np.abs(mask.mean(0) - 0.75).max() < 0.05
    assert np.abs(np.corrcoef(mask.T) - np.eye(12)).max() < 0.1


def dataset(config: Config, rank: int = 0, world: int = 1) -> TrainingSteps:
    return TrainingSteps(Memory(), config, rank, world)


def batch_of(steps: TrainingSteps, step: int) -> Batch:
    batch = steps[step]
    assert isinstance(batch, Batch)
    return batch


def config_with(*options: str) -> Config:
    """Of data whose modalities are found when they are opened."""
    config = small("trainer.batch_size=4", "model.encoder.drop_path=0.3", "model.decoder.drop_path=0.2", *options)
    return dataclasses.replace(config, masking=dataclasses.replace(config.masking, band_dropout={"optical": 0.9}))


def test_processes_and_later_starts_leave_out_the_same() -> None:
    config = config_with()
    whole, again = batch_of(dataset(config), 3), batch_of(dataset(config), 3)
    parts = [batch_of(dataset(config, rank, 2), 3) for rank in range(2)]
    assert whole.band_mask["optical"].shape == (4, 4)
    assert {name: mask.shape for name, mask in whole.path_mask.items()} == {"encoder": (8, 2, 2), "decoder": (8, 1, 2)}
    for part in ("band_mask", "path_mask"):
        for name, mask in getattr(whole, part).items():
            assert not mask.all()
            assert len(mask.flatten(1).unique(dim=0)) > 1
            assert torch.equal(mask, getattr(again, part)[name])
            assert torch.equal(mask, torch.cat([getattr(each, part)[name] for each in parts]))
            assert torch.equal(mask, torch.cat([getattr(each, part)[name] for each in whole.split(4)]))


def test_without_them_the_rest_of_a_batch_is_the_same_and_nothing_is_left_out() -> None:
    plain, dropped = batch_of(dataset(small("trainer.batch_size=4")), 2), batch_of(dataset(config_with()), 2)
    assert not plain.band_mask
    assert not plain.path_mask
    for i in range(4):  # of a sample: later ones
        a, b = (some_samples(batch, slice(i, i + 1)) for batch in (plain, dropped))
        assert all(torch.equal(pixels, b.pixels[name]) for name, pixels in a.pixels.items())
        assert all(torch.equal(mask, b.masks[name]) for name, mask in a.masks.items())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("radar", "not an input of the encoder; takes: optical, height"),
        ("cover", "not an input of the encoder; takes: optical, height"),
        ("height", "none of its band sets has two bands; leave it out"),
    ],
)
def test_bands_are_dropped_of_inputs_that_have_some(name: str, wrong: str) -> None:
    config = config_with()
    config = dataclasses.replace(config, masking=dataclasses.replace(config.masking, band_dropout={name: 0.5}))
    with pytest.raises(InputError) as error:
        dataset(config)
    assert str(error.value) == f"masking.band_dropout.{name}=0.5: {wrong}"
