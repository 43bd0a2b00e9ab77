"""The assembled model: shapes, masks, and what must never reach a latent."""

import pytest
import torch
from building import MODALITIES, make_batch, remade, small, some_samples, under
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.patchify import patchify
from hybrid_patch.model.encoder import Encoder
from hybrid_patch.model.hybrid import HybridModel, build_model
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.tokens import TokenGrid, Tokens

SIZES = [(8, 8), (8, 4), (8, 2), (8, 1), (4, 4), (4, 1), (2, 1), (1, 1)]
UPSAMPLERS = ["bilinear", "nearest", "learned", "subpixel", "transposed"]


def model_for(processing: int, output: int, upsampler: str = "bilinear") -> HybridModel:
    torch.manual_seed(0)
    config = small(
        f"patch.processing_patch_size={processing}", f"patch.output_patch_size={output}", f"upsampler={upsampler}"
    )
    return build_model(config, MODALITIES)


def encode(model: HybridModel, batch: Batch, sizes: PatchSizes) -> tuple[Tensor, dict[str, TokenGrid]]:
    return model.encode({name: patchify(pixels, sizes.processing) for name, pixels in batch.pixels.items()}, batch)


def fine_tokens(
    model: HybridModel, batch: Batch, sizes: PatchSizes
) -> tuple[dict[str, tuple[TokenGrid, Tokens]], dict[str, tuple[TokenGrid, Tokens]]]:
    """Of latents and of predictions, under their masks, beside the coarse ones."""
    latents, grids = encode(model, batch, sizes)
    predicted = model.decode(latents, batch, sizes.processing)
    made = [
        {name: (grid, up(grid, sizes.factor, under(grid.mask, sizes.factor))) for name, grid in result.items()}
        for up, result in ((model.encoder_upsampler, grids), (model.decoder_upsampler, predicted))
    ]
    return made[0], made[1]


@pytest.mark.sample(12)
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize(("processing", "output"), SIZES)
def test_shapes_and_masks_at_every_pair_of_sizes(processing: int, output: int, upsampler: str) -> None:
    sizes = PatchSizes(processing, output)
    model, batch = model_for(processing, output, upsampler), make_batch(processing, missing=0.1)
    latents, predictions = fine_tokens(model, batch, sizes)
    assert set(latents) == {"optical", "height"}  # a map is never an input
    assert set(predictions) == set(MODALITIES)
    for result, value, width in ((latents, Mask.ENCODE, 32), (predictions, Mask.DECODE, 48)):
        for name, (grid, fine) in result.items():
            modality = MODALITIES[name]
            side, timesteps = 16 // processing, 2 if modality.temporal else 1
            assert grid.tokens.shape == (6, side, side, timesteps, len(modality.band_sets), width)
            assert torch.equal(grid.mask, batch.masks[name] == value)
            inside = under(grid.mask, sizes.factor).cells.valid()
            assert inside.sum() == grid.mask.sum()
            assert fine.dense().shape[2:] == (sizes.factor**2, width)
            assert torch.isfinite(fine.dense()[inside]).all()


def perturbed(batch: Batch, processing: int) -> Batch:
    """One view, and other pixels wherever its encoder must not look."""
    pixels = {}
    for name, x in batch.pixels.items():
        visible = repeat_cells((batch.masks[name] == Mask.ENCODE).any(-1), processing)
        pixels[name] = torch.where(visible[..., None], x, torch.randn_like(x) * 100)
    return remade(batch, pixels=pixels)


def first_view(batch: Batch) -> Batch:
    return remade(batch, masks={name: mask[:: batch.views] for name, mask in batch.masks.items()})


@pytest.mark.sample(8)
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize(("processing", "output"), [(8, 1), (4, 2), (2, 2), (1, 1)])
def test_hidden_and_missing_pixels_change_no_bit(processing: int, output: int, upsampler: str) -> None:
    sizes = PatchSizes(processing, output)
    model, batch = model_for(processing, output, upsampler), first_view(make_batch(processing, missing=0.2))
    for parameter in model.encoder_upsampler.parameters():
        torch.nn.init.normal_(parameter)
    results = [
        [
            fine.dense()[under(grid.mask, sizes.factor).cells.valid()]
            for result in fine_tokens(model, b, sizes)
            for grid, fine in result.values()
        ]
        for b in (batch, perturbed(batch, processing))
    ]
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


def test_every_visible_pixel_matters() -> None:
    sizes, model, batch = PatchSizes(8, 1), model_for(8, 1), first_view(make_batch(8))
    pixels = {name: x.clone().requires_grad_() for name, x in batch.pixels.items()}
    latents, _ = fine_tokens(model, remade(batch, pixels=pixels), sizes)
    torch.stack([fine.dense().square().sum() for _, fine in latents.values()]).sum().backward()
    visible = repeat_cells((batch.masks["optical"] == Mask.ENCODE).any(-1), 8)
    gradient = pixels["optical"].grad
    assert gradient is not None
    assert ((gradient != 0).any(-1) == visible).all()


def test_a_sample_and_a_view_do_not_depend_on_their_batch() -> None:
    """Samples with more visible tokens pad the others; padding must not change them."""
    sizes, model, batch = PatchSizes(8, 1), model_for(8, 1), make_batch(8, missing=0.3, samples=4)
    _, together = encode(model, batch, sizes)
    for i in range(4):
        sample = some_samples(batch, slice(i, i + 1))
        for view in range(2):
            row = remade(sample, masks={name: mask[view : view + 1] for name, mask in sample.masks.items()})
            _, alone = encode(model, row, sizes)
            for name, grid in alone.items():
                inside = grid.mask[0]
                torch.testing.assert_close(grid.tokens[0][inside], together[name].tokens[2 * i + view][inside])


def gradients_with(option: str) -> dict[str, Tensor]:
    """Gradients of a sum over the predictions, under an option of the runtime."""
    torch.manual_seed(0)
    model = build_model(small(option), MODALITIES)
    _, predictions = fine_tokens(model, make_batch(8), PatchSizes(8, 1))
    torch.stack([fine.dense().square().mean() for _, fine in predictions.values()]).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_changes_nothing() -> None:
    expected, result = (gradients_with(f"runtime.gradient_checkpointing={on}") for on in ("false", "true"))
    assert expected.keys() == result.keys()
    assert all(torch.equal(gradient, result[name]) for name, gradient in expected.items())


def test_maps_may_come_before_the_modalities_that_are_encoded() -> None:
    names = ["cover", "height", "optical"]
    torch.manual_seed(0)
    model = build_model(small(), {name: MODALITIES[name] for name in names})
    batch, sizes = make_batch(8), PatchSizes(8, 1)
    turned = remade(batch, **{
        part: {name: getattr(batch, part)[name] for name in names} for part in ("pixels", "valid", "masks")
    })  # fmt: skip
    expected, again = (fine_tokens(model, b, sizes)[1] for b in (batch, turned))
    for name in names:
        torch.testing.assert_close(expected[name][1].dense(), again[name][1].dense())


def test_the_month_and_the_place_are_told() -> None:
    model, batch = model_for(8, 8), make_batch(8)
    assert isinstance(model.encoder, Encoder)
    encodings = model.encoder.encodings("optical", (2, 2), 8, batch.timestamps)
    assert not torch.equal(encodings[:, 0, 0], encodings[:, 0, 1])
    later = batch.timestamps.clone()
    later[..., 1] = (later[..., 1] + 6) % 12
    assert not torch.equal(encodings, model.encoder.encodings("optical", (2, 2), 8, later))
    # One map for all patch sizes: the middle of four fine patches is the middle of the coarse one.
    fine = model.encoder.encodings("height", (4, 4), 4, batch.timestamps)
    assert fine.shape == (3, 4, 4, 1, 1, 32)
