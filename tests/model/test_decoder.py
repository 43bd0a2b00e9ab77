"""The decoder asked for fine tokens: the same network, one query each, that sees nothing but the coarse context."""

import pytest
import torch
from building import MODALITIES, make_batch, small
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.packing import everything, pack
from hybrid_patch.data.patchify import patchify
from hybrid_patch.model.encodings import Encodings
from hybrid_patch.model.hybrid import HybridModel, build_model
from hybrid_patch.model.tokens import Positions, images
from hybrid_patch.model.upsampler.bilinear import Bilinear
from hybrid_patch.model.upsampler.guided import Guided
from hybrid_patch.model.upsampler.learned import Learned

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", list(MODALITIES))
@pytest.mark.parametrize("factor", [1, 2, 8])
def test_encodings_of_fine_tokens_are_those_of_a_fine_grid(name: str, factor: int) -> None:
    encodings = Encodings(MODALITIES, 32)
    timestamps = torch.tensor([[[1, 3, 2024], [5, 7, 2024]], [[1, 0, 2023], [9, 11, 2023]]])
    t, s = (2 if MODALITIES[name].temporal else 1), len(MODALITIES[name].band_sets)
    where = Positions(everything(2, 2 * 3 * t * s, CPU), torch.arange(factor**2))
    predictions = encodings.fine(name, (2, 3), PatchSizes(8, 8 // factor), where, timestamps)
    laid_out = images(predictions.unflatten(1, (6, t * s)).transpose(2, 3), (2, 3), factor).unflatten(3, (t, s))
    torch.testing.assert_close(laid_out, encodings(name, (2 * factor, 3 * factor), 8 // factor, timestamps))


def predicted(model: HybridModel, positions: dict[str, Positions] | None = None) -> tuple[dict[str, Tensor], ...]:
    batch, sizes = make_batch(8, missing=0.2), PatchSizes(8, 1)
    latents, _ = model.encode({name: patchify(x, 8) for name, x in batch.pixels.items()}, batch)
    where = positions or {name: Positions(each, torch.arange(64)) for name, each in batch.decoded.each.items()}
    predictions = model.decoder.fine(latents, batch, where, sizes)
    inside = {name: each.cells.valid() for name, each in where.items()}
    return {name: tokens.dense() for name, tokens in predictions.items()}, inside


def test_each_prediction_stands_alone() -> None:
    """Some of the positions, of fewer cells and subpixels, and without the other modalities: the same numbers."""
    torch.manual_seed(0)
    model = build_model(small("patch=hybrid", "decoder.patch_size=output"), MODALITIES)
    everywhere, _ = predicted(model)
    cells = make_batch(8, missing=0.2).decoded.each["optical"]
    mask = torch.zeros(6, cells.length, dtype=torch.bool)
    mask.scatter_(1, cells.index[:, :2], True)
    subpixels = torch.tensor([3, 60, 17])
    alone, inside = predicted(model, {"optical": Positions(pack(mask & hidden_cells()), subpixels)})
    expected = everywhere["optical"][:, :, subpixels]
    count = int(inside["optical"].sum(1).min())
    assert count > 0
    torch.testing.assert_close(alone["optical"][:, :count], expected[:, :count])


def hidden_cells() -> Tensor:
    """`[B V, h w T S]` of the optical tokens that are to be decoded."""
    cells = make_batch(8, missing=0.2).decoded.each["optical"]
    return cells.scatter(torch.ones(*cells.index.shape, 1))[..., 0] > 0


def test_at_ratio_one_it_is_the_coarse_decoder() -> None:
    torch.manual_seed(0)
    model = build_model(small("patch=ps8", "decoder.patch_size=output"), MODALITIES)
    batch = make_batch(8, missing=0.2)
    latents, _ = model.encode({name: patchify(x, 8) for name, x in batch.pixels.items()}, batch)
    coarse = model.decode(latents, batch, 8)
    where = {name: Positions(each, torch.arange(1)) for name, each in batch.decoded.each.items()}
    fine = model.decoder.fine(latents, batch, where, PatchSizes(8, 8))
    for name, each in batch.decoded.each.items():
        expected = each.gather(coarse[name].tokens.flatten(1, 4))
        torch.testing.assert_close(fine[name].dense()[:, :, 0][each.valid()], expected[each.valid()])


def test_the_upsamplers_are_shared_or_set_apart() -> None:
    shared = build_model(small("upsampler=learned"), MODALITIES)
    assert isinstance(shared.encoder_upsampler, Learned)
    assert isinstance(shared.decoder_upsampler, Learned)
    separate = build_model(small("upsampler=guided", "+upsampler@decoder.upsampler=learned"), MODALITIES)
    assert isinstance(separate.encoder_upsampler, Guided)
    assert isinstance(separate.decoder_upsampler, Learned)
    guided = build_model(small("upsampler=guided"), MODALITIES)
    assert isinstance(guided.decoder_upsampler, Bilinear)
    none = build_model(small("upsampler=guided", "decoder.patch_size=output"), MODALITIES)
    assert not hasattr(none, "decoder_upsampler")
