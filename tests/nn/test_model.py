"""The assembled model: shapes, masks, and what must never reach a latent."""

import pytest
import torch
from building import MODALITIES, make_batch, one_sample, small

from hybrid_patch.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.masking import Mask
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.tokens import repeat_cells

SIZES = [(8, 8), (8, 4), (8, 2), (8, 1), (4, 4), (4, 1), (2, 1), (1, 1)]
UPSAMPLERS = ["bilinear", "learned"]


def model_for(processing: int, output: int, upsampler: str = "bilinear") -> HybridModel:
    torch.manual_seed(0)
    config = small(
        f"patch.processing_patch_size={processing}", f"patch.output_patch_size={output}", f"upsampler={upsampler}"
    )
    return HybridModel(config, MODALITIES)


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize(("processing", "output"), SIZES)
def test_shapes_and_masks_at_every_pair_of_sizes(processing: int, output: int, upsampler: str) -> None:
    sizes = PatchSizes(processing, output)
    model, batch = model_for(processing, output, upsampler), make_batch(processing, missing=0.1)
    masks = batch.views[0]
    grids, latents = model.encode(batch.pixels, masks, batch.timestamps, sizes)
    predictions = model.decode(grids, masks, batch.timestamps, sizes)
    assert set(latents) == {"optical", "height"}  # a map is never an input
    assert set(predictions) == set(MODALITIES)
    for name, modality in MODALITIES.items():
        timesteps = 2 if modality.temporal else 1
        shape = (3, 16 // output, 16 // output, timesteps, len(modality.band_sets))
        hidden = repeat_cells(masks[name] == Mask.DECODE, sizes.factor)
        assert torch.equal(predictions[name].fine_mask, hidden)
        assert predictions[name].dense().shape == (*shape, 48)
        assert torch.isfinite(predictions[name].dense()[hidden]).all()
        if name in latents:
            visible = repeat_cells(masks[name] == Mask.ENCODE, sizes.factor)
            assert torch.equal(latents[name].fine_mask, visible)
            assert latents[name].dense().shape == (*shape, 32)
            assert torch.isfinite(latents[name].dense()[visible]).all()


def perturbed(batch: Batch, view: int, processing: int) -> Batch:
    """Other pixels wherever the encoder must not look."""
    pixels = {}
    for name, x in batch.pixels.items():
        visible = repeat_cells((batch.views[view][name] == Mask.ENCODE).any(-1), processing)
        pixels[name] = torch.where(visible[..., None], x, torch.randn_like(x) * 100)
    return Batch(pixels, batch.valid, batch.timestamps, batch.views)


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize(("processing", "output"), [(8, 1), (4, 2), (2, 2), (1, 1)])
def test_hidden_and_missing_pixels_change_no_bit(processing: int, output: int, upsampler: str) -> None:
    sizes = PatchSizes(processing, output)
    model, batch = model_for(processing, output, upsampler), make_batch(processing, missing=0.2)
    for parameter in model.encoder_upsampler.parameters():
        torch.nn.init.normal_(parameter)
    results = []
    for pixels in (batch.pixels, perturbed(batch, 0, processing).pixels):
        grids, latents = model.encode(pixels, batch.views[0], batch.timestamps, sizes)
        predictions = model.decode(grids, batch.views[0], batch.timestamps, sizes)
        results.append([f.dense()[f.fine_mask] for f in (*latents.values(), *predictions.values())])
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


def test_every_visible_pixel_matters() -> None:
    model, batch = model_for(8, 1), make_batch(8)
    _, latents = model.encode(batch.pixels, batch.views[0], batch.timestamps, PatchSizes(8, 1))
    pixels = {name: x.clone().requires_grad_() for name, x in batch.pixels.items()}
    _, latents = model.encode(pixels, batch.views[0], batch.timestamps, PatchSizes(8, 1))
    torch.stack([f.dense()[f.fine_mask].square().sum() for f in latents.values()]).sum().backward()
    visible = repeat_cells((batch.views[0]["optical"] == Mask.ENCODE).any(-1), 8)
    gradient = pixels["optical"].grad
    assert gradient is not None
    assert ((gradient != 0).any(-1) == visible).all()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    """Samples with more visible tokens pad the others; padding must not change them."""
    sizes, model, batch = PatchSizes(8, 1), model_for(8, 1), make_batch(8, missing=0.3, samples=4)
    _, together = model.encode(batch.pixels, batch.views[0], batch.timestamps, sizes)
    for i in range(4):
        one = one_sample(batch, i)
        _, alone = model.encode(one.pixels, one.views[0], one.timestamps, sizes)
        for name, fine in alone.items():
            inside = fine.fine_mask[0]
            torch.testing.assert_close(fine.dense()[0][inside], together[name].dense()[i][inside])


def test_gradient_checkpointing_changes_nothing() -> None:
    sizes, batch = PatchSizes(8, 1), make_batch(8)
    gradients = []
    for checkpointing in ("false", "true"):
        torch.manual_seed(0)
        model = HybridModel(small(f"runtime.gradient_checkpointing={checkpointing}"), MODALITIES)
        grids, _ = model.encode(batch.pixels, batch.views[0], batch.timestamps, sizes)
        decoded = model.decode(grids, batch.views[0], batch.timestamps, sizes)
        torch.stack([f.dense().square().sum() for f in decoded.values()]).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_the_month_and_the_place_are_told() -> None:
    model, batch = model_for(8, 8), make_batch(8)
    encodings = model.encoder.encodings("optical", (2, 2), 8, batch.timestamps)
    assert not torch.equal(encodings[:, 0, 0], encodings[:, 0, 1])
    later = batch.timestamps.clone()
    later[..., 1] = (later[..., 1] + 6) % 12
    assert not torch.equal(encodings, model.encoder.encodings("optical", (2, 2), 8, later))
    # One map for all patch sizes: the middle of four fine patches is the middle of the coarse one.
    fine = model.encoder.encodings("height", (4, 4), 4, batch.timestamps)
    assert fine.shape == (3, 4, 4, 1, 1, 32)
