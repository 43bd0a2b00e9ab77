"""Embeddings of pixels, the probe on them, and their pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from building import MODALITIES, OPTICAL, make_batch, small
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from hybrid_patch.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.spectra import CLASSES
from hybrid_patch.masking import Mask
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.probing.embedding import embed
from hybrid_patch.probing.evaluate import blending_weights, window_starts
from hybrid_patch.probing.linear_probe import fit_linear_probe, score_linear_probe
from hybrid_patch.probing.pictures import class_colours, draw_tile, shown_modality, stretch, visible_channels


def model_for(processing: int, output: int) -> HybridModel:
    torch.manual_seed(0)
    sizes = (f"patch.processing_patch_size={processing}", f"patch.output_patch_size={output}")
    return HybridModel(small(*sizes), MODALITIES).eval()


@pytest.mark.parametrize(("processing", "output"), [(8, 1), (8, 2), (8, 8), (1, 1)])
def test_a_pixel_is_the_mean_of_its_tokens(processing: int, output: int) -> None:
    sizes, model = PatchSizes(processing, output), model_for(processing, output)
    batch = make_batch(processing, missing=0.0)
    embedding = embed(model, batch, sizes, MODALITIES)
    assert embedding.shape == (3, 16, 16, 32)
    everything = {name: torch.full_like(mask, Mask.ENCODE) for name, mask in batch.views[0].items()}
    _, latents = model.encode(batch.pixels, everything, batch.timestamps, sizes)
    tokens = torch.cat([fine.dense().flatten(3, 4) for fine in latents.values()], dim=3)
    assert tokens.shape[3] == 2 * 2 + 1  # two dates and two band sets of one modality, one token of the other
    expected = tokens.mean(3).repeat_interleave(output, 1).repeat_interleave(output, 2)
    torch.testing.assert_close(embedding, expected)


def test_missing_timesteps_take_no_part() -> None:
    batch = make_batch(8)
    valid = {name: there.clone() for name, there in batch.valid.items()}
    valid["optical"][:, :, :, 1] = False
    pixels = {name: torch.where(valid[name][..., None], x, 0) for name, x in batch.pixels.items()}
    noise = {name: torch.where(valid[name][..., None], x, 99.0) for name, x in batch.pixels.items()}
    model, sizes = model_for(8, 1), PatchSizes(8, 1)
    first, second = (
        embed(model, Batch(p, valid, batch.timestamps, batch.views), sizes, MODALITIES) for p in (pixels, noise)
    )
    assert torch.equal(first, second)


@given(length=st.integers(1, 300), side=st.integers(1, 64), data=st.data())
def test_windows_cover_a_side_without_leaving_it(length: int, side: int, data: st.DataObject) -> None:
    starts = window_starts(length, side, data.draw(st.integers(1, side)))
    covered = {place for start in starts for place in range(start, min(start + side, length))}
    assert covered == set(range(length))
    assert all(start + side <= max(length, side) for start in starts)


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_windows_are_blended_without_seams(side: int) -> None:
    weights = blending_weights(side)[..., 0]
    assert (weights > 0).all()
    assert np.array_equal(weights, weights[::-1])
    assert np.array_equal(weights, weights.T)
    assert weights.max() == weights[side // 2, side // 2] <= 1
    if side % 2 == 0:  # half-overlapping windows add up to the same everywhere
        rows = weights + np.roll(weights, side // 2, 0)
        np.testing.assert_allclose(rows + np.roll(rows, side // 2, 1), 1, rtol=1e-6)


def test_the_probe_learns_what_is_linear_and_judges_by_tile() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=1200)
    features = np.eye(3)[labels] + rng.normal(scale=0.2, size=(1200, 3))
    probe = fit_linear_probe(features[:800], labels[:800], np.arange(800) // 100)
    scores = score_linear_probe(probe, features[800:], labels[800:])
    assert scores.miou > 0.95
    assert scores.accuracy > 0.97
    # What differs from tile to tile tells nothing: the held-out tiles choose a strong penalty.
    tile = np.arange(800) // 100
    by_tile = np.concatenate([rng.normal(size=(8, 60))[tile], rng.normal(size=(800, 1))], axis=1)
    stiff = fit_linear_probe(by_tile, (tile % 2).astype(int), tile)
    assert stiff[-1].C <= 1e-2


def test_the_probe_says_what_it_lacks() -> None:
    features = np.zeros((4, 2))
    with pytest.raises(ValueError, match="two classes"):
        fit_linear_probe(features, np.zeros(4, int), np.arange(4))
    probe = fit_linear_probe(features, np.arange(4) % 2, np.arange(4))
    with pytest.raises(ValueError, match="no labelled"):
        score_linear_probe(probe, features[:0], np.zeros(0, int))


def test_the_shown_bands_are_the_visible_ones() -> None:
    assert visible_channels(OPTICAL) == [0, 1, 2]
    assert shown_modality(MODALITIES) == "optical"


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("width", [1, 8])
def test_a_picture_has_a_panel_for_each_thing(tmp_path: Path, labelled: bool, width: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 4, (16, 16)) if labelled else None
    path = tmp_path / "folder" / "tile.png"
    classes = ("a", "b", "c", "d") if labelled else ()
    draw_tile(path, "a <title> with $ and _", rng.random((16, 16, 3)), labels, classes, rng.random((16, 16, width)))
    height, total_width, _ = imread(path).shape
    assert total_width / height > (2.4 if labelled else 1.5)
    assert [p.name for p in path.parent.iterdir()] == ["tile.png"]


def test_classes_have_the_colours_of_what_their_names_say() -> None:
    colours = class_colours(("Permanent water", "water", "forest", "quarry", "glacier"))
    assert colours[0] == colours[1] != colours[2]
    assert len(set(colours)) == 4
    assert len(set(class_colours(CLASSES))) == len(CLASSES)


def test_stretching_keeps_uniform_images() -> None:
    assert not stretch(np.full((4, 4, 3), 7.0)).any()
