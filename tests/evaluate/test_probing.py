"""Embeddings of pixels, and their pictures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from building import MODALITIES, OPTICAL, make_batch, remade, small, some_samples

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.patchify import patchify
from hybrid_patch.data.synthetic.spectra import CLASSES
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.evaluate.pictures import class_colours, drawn_modality, stretch, visible_channels
from hybrid_patch.model.hybrid import build_model
from hybrid_patch.model.pooling import Projection
from hybrid_patch.model.tokens import Positions


def model_for(processing: int, output: int) -> TrainedModel:
    torch.manual_seed(0)
    config = small(f"patch.processing_patch_size={processing}", f"patch.output_patch_size={output}")
    network = build_model(config, MODALITIES).eval()
    return TrainedModel(Path(), config, MODALITIES, PatchSizes(processing, output), 0, network)


def crop_for(missing: float = 0.0) -> Crop:
    batch = make_batch(8, missing=missing, samples=1)
    pixels = {name: x[0].numpy() for name, x in batch.pixels.items()}
    return Crop(pixels, {name: x[0].numpy() for name, x in batch.valid.items()}, batch.timestamps[0].numpy(), None)


@pytest.mark.parametrize(("processing", "output"), [(8, 1), (8, 2), (8, 8), (1, 1)])
def test_a_pixel_is_the_mean_of_its_tokens(processing: int, output: int) -> None:
    model, crop = model_for(processing, output), crop_for()
    sizes, network = model.sizes, model.network
    embedding = model.embed_crops([crop])[0]
    assert embedding.shape == (16, 16, 32)
    side = 16 // processing
    sets = {name: (1, side, side, 2 if m.temporal else 1, len(m.band_sets)) for name, m in MODALITIES.items()}
    masks = {name: torch.full(shape, Mask.ENCODE, dtype=torch.int8) for name, shape in sets.items()}
    batch = remade(some_samples(make_batch(processing, samples=1), slice(0, 1)), masks=masks)
    _, latents = network.encode({name: patchify(x, processing) for name, x in batch.pixels.items()}, batch)
    tokens = []
    for grid in latents.values():
        cells = network.encoder_upsampler(grid, sizes.factor, Positions.everywhere(grid.mask, sizes.factor)).dense()
        images = cells.reshape(side, side, -1, sizes.factor, sizes.factor, 32).permute(0, 3, 1, 4, 2, 5)
        tokens.append(images.reshape(16 // output, 16 // output, -1, 32))
    together = torch.cat(tokens, dim=2)
    assert together.shape[2] == 2 * 2 + 1  # two dates and two band sets of one modality, one token of the other
    expected = together.mean(2).repeat_interleave(output, 0).repeat_interleave(output, 1)
    torch.testing.assert_close(embedding, expected)


def test_missing_timesteps_take_no_part() -> None:
    crop, model = crop_for(), model_for(8, 1)
    crop.valid["optical"][:, :, 1] = False
    results = []
    for value in (0.0, 99.0):
        pixels = {name: np.where(crop.valid[name][..., None], x, np.float32(value)) for name, x in crop.pixels.items()}
        results.append(model.embed_crops([dataclasses.replace(crop, pixels=pixels)]))
    assert torch.equal(*results)


def test_side_by_side_are_all_tokens_of_a_pixel() -> None:
    crop, model = crop_for(missing=0.2), model_for(8, 1)
    mean = model.embed_crops([crop])[0]
    every = model.embed_crops([crop], "concat")[0].unflatten(-1, (5, 32))
    mask = every.ne(0).any(-1, keepdim=True)
    torch.testing.assert_close((every * mask).sum(2) / mask.sum(2).clamp(min=1), mean)


def test_projected_embeddings_are_the_embeddings_projected() -> None:
    crop, model = crop_for(missing=0.2), model_for(8, 1)
    projection = Projection(torch.randn(32, 5), torch.randn(5))
    whole = model.embed_crops([crop])
    narrow = model.embed_crops([crop], projection=projection)
    expected = whole @ projection.weight + projection.bias
    torch.testing.assert_close(narrow, torch.where(whole.any(-1, keepdim=True), expected, 0), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="only a mean"):
        model.embed_crops([crop], "concat", projection)


def test_an_absent_band_set_takes_no_part() -> None:
    crop, model = crop_for(), model_for(8, 1)
    results = []
    for value in (0.0, 99.0):
        pixels = {**crop.pixels, "optical": crop.pixels["optical"].copy()}
        pixels["optical"][..., 3] = value  # the second band set
        crops = [dataclasses.replace(crop, pixels=pixels)]
        results.append(model.embed_crops(crops, absent={"optical": [1]}))
    assert torch.equal(*results)
    assert not torch.allclose(results[0], model.embed_crops([crop]))


def test_the_shown_bands_are_the_visible_ones() -> None:
    assert visible_channels(OPTICAL) == [0, 1, 2]
    assert drawn_modality(MODALITIES) == "optical"


def test_classes_have_the_colours_of_what_their_names_say() -> None:
    colours = class_colours(("Permanent water", "water", "forest", "quarry", "glacier"))
    assert colours[0] == colours[1] != colours[2]
    assert len(set(colours)) == 4
    assert len(set(class_colours(CLASSES))) == len(CLASSES)


def test_stretching_keeps_uniform_images() -> None:
    assert not stretch(np.full((4, 4, 3), 7.0)).any()
