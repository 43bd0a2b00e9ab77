"""Embeddings of pixels, the probe on them, and their pictures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from building import MODALITIES, OPTICAL, make_batch, remade, small, some_samples
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from hybrid_patch.curriculum import PatchSizes
from hybrid_patch.data.loading import Crop
from hybrid_patch.data.spectra import CLASSES
from hybrid_patch.masking import Mask
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.patches import cut
from hybrid_patch.probing.embedding import embed
from hybrid_patch.probing.evaluate import blending_weights, window_starts
from hybrid_patch.probing.linear_probe import fit_linear_probe, score_linear_probe
from hybrid_patch.probing.pictures import class_colours, draw_tile, shown_modality, stretch, visible_channels
from hybrid_patch.tokens import Positions

CPU = torch.device("cpu")


def model_for(processing: int, output: int) -> HybridModel:
    torch.manual_seed(0)
    sizes = (f"patch.processing_patch_size={processing}", f"patch.output_patch_size={output}")
    return HybridModel(small(*sizes), MODALITIES).eval()


def crop_for(missing: float = 0.0) -> Crop:
    batch = make_batch(8, missing=missing, samples=1)
    pixels = {name: x[0].numpy() for name, x in batch.pixels.items()}
    return Crop(pixels, {name: x[0].numpy() for name, x in batch.valid.items()}, batch.timestamps[0].numpy(), None)


@pytest.mark.parametrize(("processing", "output"), [(8, 1), (8, 2), (8, 8), (1, 1)])
def test_a_pixel_is_the_mean_of_its_tokens(processing: int, output: int) -> None:
    sizes, model, crop = PatchSizes(processing, output), model_for(processing, output), crop_for()
    embedding = embed(model, crop, sizes, MODALITIES, CPU)
    assert embedding.shape == (16, 16, 32)
    side = 16 // processing
    sets = {name: (1, side, side, 2 if m.temporal else 1, len(m.band_sets)) for name, m in MODALITIES.items()}
    masks = {name: torch.full(shape, Mask.ENCODE, dtype=torch.int8) for name, shape in sets.items()}
    batch = remade(some_samples(make_batch(processing, samples=1), slice(0, 1)), masks=masks)
    _, latents = model.encode({name: cut(x, processing) for name, x in batch.pixels.items()}, batch)
    tokens = []
    for grid in latents.values():
        cells = model.encoder_upsampler(grid, sizes.factor, Positions.everywhere(grid.mask, sizes.factor)).dense()
        images = cells.reshape(side, side, -1, sizes.factor, sizes.factor, 32).permute(0, 3, 1, 4, 2, 5)
        tokens.append(images.reshape(16 // output, 16 // output, -1, 32))
    together = torch.cat(tokens, dim=2)
    assert together.shape[2] == 2 * 2 + 1  # two dates and two band sets of one modality, one token of the other
    expected = together.mean(2).repeat_interleave(output, 0).repeat_interleave(output, 1)
    torch.testing.assert_close(embedding, expected)


def test_missing_timesteps_take_no_part() -> None:
    crop, model, sizes = crop_for(), model_for(8, 1), PatchSizes(8, 1)
    crop.valid["optical"][:, :, 1] = False
    results = []
    for value in (0.0, 99.0):
        pixels = {name: np.where(crop.valid[name][..., None], x, np.float32(value)) for name, x in crop.pixels.items()}
        results.append(embed(model, dataclasses.replace(crop, pixels=pixels), sizes, MODALITIES, CPU))
    assert torch.equal(*results)


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
