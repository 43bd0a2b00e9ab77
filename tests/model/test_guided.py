"""The guided upsampler: against a plain convolution, and blind to whatever the encoder did not see."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from building import MODALITIES, make_batch, remade, small, under
from torch import Tensor

from hybrid_patch.config.compose import compose
from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.upsamplers import built_in
from hybrid_patch.data.batch import Batch, Guide
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.patchify import patchify
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.random_features import RandomFeatures
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid, images
from hybrid_patch.model.upsampler import TokenSpec, Upsampler, factory
from hybrid_patch.model.upsampler.bilinear import Bilinear
from hybrid_patch.model.upsampler.guided import Guided
from hybrid_patch.train.step import TrainingModule

WIDTH = 12
NEED_PIXELS = [name for name in built_in() if compose([f"upsampler={name}"]).upsampler.pixel_dropout is not None]
"""All built-in upsamplers that look at pixels: none of them may leak."""


def untrained(factor: int = 8) -> Guided:
    return Guided(TokenSpec(WIDTH, {factor}, MODALITIES), rank=5, random_features=7, deviation_radius=2, adapter=3)


def guided() -> Guided:
    """With every parameter at random."""
    torch.manual_seed(0)
    upsampler = untrained()
    for parameter in upsampler.parameters():
        torch.nn.init.normal_(parameter)
    return upsampler


def randomised(name: str) -> Upsampler:
    """A built-in upsampler with every parameter at random."""
    torch.manual_seed(0)
    upsampler = factory(compose([f"upsampler={name}"]).upsampler)(TokenSpec(WIDTH, {8}, MODALITIES))
    for parameter in upsampler.parameters():
        torch.nn.init.normal_(parameter)
    return upsampler


def grid_of(batch: Batch, name: str) -> TokenGrid:
    mask = batch.masks[name] == Mask.ENCODE
    return TokenGrid(torch.randn(*mask.shape, WIDTH, generator=torch.Generator().manual_seed(1)), mask)


@pytest.mark.parametrize("output", [1, 2, 4])
def test_it_starts_as_interpolation_and_has_the_detail_of_a_plain_convolution(output: int) -> None:
    batch, factor = make_batch(8, missing=0.3), 8 // output
    grid, guide = grid_of(batch, "optical"), batch.guide("optical")
    everywhere = Positions.everywhere(grid.mask, factor)
    start = untrained(factor)(grid, factor, everywhere, guide).dense()
    torch.testing.assert_close(start, Bilinear(TokenSpec(WIDTH, {factor}))(grid, factor, everywhere).dense())

    upsampler = guided()
    fine = upsampler(grid, factor, everywhere, guide)
    convolution, random = upsampler.pixels["optical"], upsampler.random["optical"]
    assert isinstance(random, RandomFeatures)
    assert fine.detail is not None
    first, _, last = upsampler.adapter
    adapted = grid.tokens + last(F.gelu(first(grid.tokens)))
    torch.testing.assert_close(fine.grid.tokens, adapted)
    context, gate = (
        FineTokens(TokenGrid(adapted @ weight, grid.mask), factor, everywhere).dense()
        for weight in (upsampler.context, upsampler.gate["optical"])
    )
    b, h, w, t, s = grid.mask.shape
    for view in range(b):
        for step in range(t):
            visible_mask = (
                repeat_cells(grid.mask[view : view + 1, :, :, step], 8)[0] & guide.valid[view // 2, :, :, step, None]
            )
            pixels = guide.pixels[view // 2, :, :, step]
            rgb, nir = pixels[..., :3] * visible_mask[..., :1], pixels[..., 3:] * visible_mask[..., 1:]
            image = torch.cat([rgb, nir, visible_mask.float()], -1).movedim(-1, 0)[None]
            convolved = convolution(F.avg_pool2d(image, output))[0].movedim(0, -1)
            for band_set in range(s):
                neighbours, gates = (
                    images(x[view].reshape(h * w, t, s, factor**2, -1)[None, :, step, band_set], (h, w), factor)[0]
                    for x in (context, gate)
                )
                plain = F.gelu(upsampler.mix(F.gelu(convolved + neighbours)))
                detail = fine.detail[view].reshape(h * w, t, s, factor**2, -1)[:, step, band_set]
                bands = torch.where(
                    torch.cat([visible_mask[..., :1].expand(*visible_mask.shape[:2], 3), visible_mask[..., 1:]], -1),
                    4 * pixels - 2,
                    0,
                )
                bands, pooled_seen = (
                    F.avg_pool2d(x.movedim(-1, 0)[None], output)[0].movedim(0, -1)
                    for x in (bands, visible_mask.float())
                )
                share = torch.cat([pooled_seen[..., :1].expand(*pooled_seen.shape[:2], 3), pooled_seen[..., 1:]], -1)
                features = random(bands / share.clamp(min=1e-6)) * (1 + gates) * pooled_seen.amax(-1, keepdim=True)
                deviations = local_deviations(pixels, visible_mask[..., [0, 0, 0, 1]])
                deviations = F.avg_pool2d(deviations.movedim(-1, 0)[None], output)[0].movedim(0, -1)
                expected = torch.cat([plain, bands, features], -1)
                detail = images(detail[None], (h, w), factor)[0]
                torch.testing.assert_close(torch.cat([detail[..., :9], detail[..., 13:]], -1), expected)
                # The deviation of a single pixel is zero but for rounding, which a logarithm makes large.
                torch.testing.assert_close(detail[..., 9:13], deviations, atol=0.1, rtol=0)
    torch.testing.assert_close(fine.basis, torch.cat([upsampler.basis, upsampler.bands["optical"], random.basis()]))


def local_deviations(pixels: Tensor, visible_mask: Tensor) -> Tensor:
    """Of the visible pixels at most 2 away, band by band, as logarithms."""
    values = torch.where(visible_mask, pixels, torch.nan).double()
    near = F.pad(values.movedim(-1, 0), [2] * 4, value=torch.nan).unfold(1, 5, 1).unfold(2, 5, 1).flatten(3)
    variance = (near - near.nanmean(-1, keepdim=True)).square().nanmean(-1).nan_to_num()
    return ((variance.sqrt() + 0.01).log() + 3).float().movedim(0, -1)


@pytest.mark.parametrize("subpixels", [[5], [5, 63], [0, 7, 8, 20, 55, 56, 63], list(range(0, 64, 2))])
def test_it_works_on_the_positions_asked_for(subpixels: list[int]) -> None:
    batch, upsampler = make_batch(8), guided()
    grid, guide = grid_of(batch, "optical"), batch.guide("optical")
    cells = under(grid.mask, 8).cells
    part = Positions(cells, torch.tensor(subpixels))
    whole = upsampler(grid, 8, Positions.everywhere(grid.mask, 8), guide).dense()
    torch.testing.assert_close(upsampler(grid, 8, part, guide).dense(), cells.gather(whole)[:, :, subpixels])


def test_all_views_have_their_own_masks_and_their_sample_s_pixels() -> None:
    batch, upsampler = make_batch(8), guided()
    grid, guide = grid_of(batch, "height"), batch.guide("height")
    everywhere = Positions.everywhere(grid.mask, 8)
    both = upsampler(grid, 8, everywhere, guide).dense()
    for view in range(len(grid.mask)):
        row, sample = slice(view, view + 1), slice(view // 2, view // 2 + 1)
        alone = TokenGrid(grid.tokens[row], grid.mask[row])
        its_own = Guide("height", guide.pixels[sample], guide.valid[sample], None)
        tokens = upsampler(alone, 8, Positions.everywhere(alone.mask, 8), its_own).dense()
        torch.testing.assert_close(both[row], tokens)


def perturbed(batch: Batch, unseen: dict[str, Tensor]) -> Batch:
    """With other values where `unseen` `[B, H, W, T, C]`."""
    pixels = {name: torch.where(unseen[name], 1e3, x) if name in unseen else x for name, x in batch.pixels.items()}
    return dataclasses.replace(batch, pixels=pixels)


def latents(module: TrainingModule, batch: Batch) -> list[Tensor]:
    """Dense fine tokens of everything visible."""
    patches = {name: patchify(pixels, 8) for name, pixels in batch.pixels.items()}
    _, encoded = module.model.encode(patches, batch)
    tokens = []
    for name, grid in encoded.items():
        positions = under(grid.mask, 8)
        fine = module.model.encoder_upsampler(grid, 8, positions, batch.guide(name)).dense()
        tokens.append(fine[positions.cells.valid()])
    return tokens


@pytest.mark.parametrize("name", NEED_PIXELS)
def test_pixels_that_the_encoder_did_not_see_change_nothing(name: str) -> None:
    """Bit for bit. One view, so that what is hidden in it is hidden from all; missing pixels are zeros already."""
    batch = make_batch(8, missing=0.2)
    batch = remade(batch, masks={name: mask[::2] for name, mask in batch.masks.items()})
    torch.manual_seed(0)
    module = TrainingModule(small("patch=hybrid", f"upsampler={name}"), MODALITIES)
    for parameter in module.model.encoder_upsampler.parameters():
        torch.nn.init.normal_(parameter)
    unseen = {}
    for modality in ("optical", "height"):
        visible_mask = repeat_cells(batch.masks[modality] == Mask.ENCODE, 8)  # [B, H, W, T, S]
        channels = MODALITIES[modality].band_set_channels
        band_sets = [next(s for s, owned in enumerate(channels) if c in owned) for c in range(sum(map(len, channels)))]
        unseen[modality] = ~visible_mask[..., band_sets]
        assert unseen[modality].any()
    for a, b in zip(latents(module, batch), latents(module, perturbed(batch, unseen)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NEED_PIXELS)
def test_dropped_pixels_are_not_looked_at(name: str) -> None:
    batch, upsampler = make_batch(8), randomised(name)
    grid = grid_of(batch, "optical")
    guide_mask = torch.rand(len(grid.mask), *batch.valid["optical"].shape[1:]) < 0.5
    positions = under(grid.mask, 8)
    pixels = batch.pixels["optical"]
    dropped_in_all_views = ~guide_mask.unflatten(0, (-1, 2)).any(1)
    others = torch.where(dropped_in_all_views[..., None], -7.0, pixels)
    a, b = (
        upsampler(grid, 8, positions, Guide("optical", x, batch.valid["optical"], guide_mask)).dense()
        for x in (pixels, others)
    )
    assert torch.equal(a, b)
    whole = upsampler(grid, 8, positions, batch.guide("optical")).dense()
    assert not torch.allclose(a, whole)


@pytest.mark.parametrize("name", NEED_PIXELS)
def test_the_decoder_is_not_guided(name: str) -> None:
    module = TrainingModule(small("patch=hybrid", f"upsampler={name}"), MODALITIES)
    assert isinstance(module.model.decoder_upsampler, Bilinear)
    batch = make_batch(8)
    terms = module(batch, PatchSizes(8, 1))
    terms["loss"].backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    assert terms["loss"].isfinite()


def test_without_pixels_it_says_so() -> None:
    batch = make_batch(8)
    grid = grid_of(batch, "optical")
    with pytest.raises(ValueError, match="needs the pixels"):
        guided()(grid, 8, under(grid.mask, 8))
