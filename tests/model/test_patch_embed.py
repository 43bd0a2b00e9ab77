"""Resized kernels see resized patches as the base kernel saw the patches."""

import pytest
import torch
import torch.nn.functional as F
from building import OPTICAL
from torch import nn

from hybrid_patch.data.patchify import patchify, repatchify
from hybrid_patch.model.patch_embed import PatchEmbed, kernel_resize

DOUBLE = torch.float64


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """`[..., a, a]` → `[..., size, size]`, as the kernels' resize has it."""
    flat = images.reshape(-1, 1, *images.shape[-2:])
    mode = "bilinear" if size >= images.shape[-1] else "area"
    return F.interpolate(flat, (size, size), mode=mode).reshape(*images.shape[:-2], size, size)


@pytest.mark.parametrize(("base", "size"), [(2, 4), (2, 8), (4, 8), (1, 8), (4, 6), (3, 5), (1, 2)])
def test_a_larger_kernel_sees_enlarged_patches_exactly(base: int, size: int) -> None:
    patch = torch.randn(7, base, base, dtype=DOUBLE)
    kernel = torch.randn(5, base, base, dtype=DOUBLE)
    resized = kernel.flatten(1) @ kernel_resize(base, size, DOUBLE, torch.device("cpu"))
    torch.testing.assert_close(resize(patch, size).flatten(1) @ resized.mT, patch.flatten(1) @ kernel.flatten(1).mT)


@pytest.mark.parametrize(("base", "size"), [(8, 4), (8, 2), (8, 1), (4, 3)])
def test_a_smaller_kernel_is_exact_on_patches_that_lose_nothing(base: int, size: int) -> None:
    kernel = torch.randn(5, base, base, dtype=DOUBLE)
    smaller = kernel_resize(base, size, DOUBLE, torch.device("cpu"))
    # The patches that a reduction can undo: those spanned by the rows of the reducing map.
    patch = torch.randn(7, size**2, dtype=DOUBLE) @ smaller.mT
    reduced = resize(patch.reshape(7, base, base), size).flatten(1)
    torch.testing.assert_close(reduced @ (kernel.flatten(1) @ smaller).mT, patch @ kernel.flatten(1).mT)


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize("patch_size", [1, 2, 4, 8])
def test_uniform_ground_has_one_embedding_at_every_patch_size(patch_size: int, hidden: int | None) -> None:
    embed = PatchEmbed(OPTICAL, 16, 8, pixel_hidden_width=hidden, statistics=True).double()
    pixels = torch.rand(1, 1, 1, 2, 4, dtype=DOUBLE).expand(1, 24, 24, 2, 4)
    valid = torch.ones(1, 24, 24, 2, dtype=torch.bool)
    tokens = embed(patchify(pixels, patch_size), valid)
    assert tokens.shape == (1, 24 // patch_size, 24 // patch_size, 2, 2, 16)
    expected = embed(patchify(pixels, 8), valid)[:, :1, :1].expand_as(tokens)
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)  # the root of a variance of 1e-17


def test_the_embedding_is_a_convolution() -> None:
    embed = PatchEmbed(OPTICAL, 16, 4, pixel_hidden_width=None, statistics=False).double()
    pixels, valid = torch.randn(2, 8, 12, 3, 4, dtype=DOUBLE), torch.ones(2, 8, 12, 3, dtype=torch.bool)
    kernel = embed.kernel(0, 4).reshape(4, 4, 3, 16).permute(3, 2, 0, 1)
    images = pixels[..., :3].permute(0, 3, 4, 1, 2).flatten(0, 1)
    expected = F.conv2d(images, kernel, stride=4).unflatten(0, (2, 3)).permute(0, 3, 4, 1, 2)
    torch.testing.assert_close(embed(patchify(pixels, 4), valid)[..., 0, :], expected + embed.bias[0])


def test_a_hidden_layer_of_each_pixel_s_bands_comes_first() -> None:
    embed = PatchEmbed(OPTICAL, 16, 4, pixel_hidden_width=5, statistics=False).double()
    pixels, valid = torch.rand(2, 8, 12, 3, 4, dtype=DOUBLE), torch.rand(2, 8, 12, 3) > 0.3
    pixels = pixels * valid[..., None]
    tokens = embed(patchify(pixels, 4), valid)
    for s, bands in enumerate(([0, 1, 2], [3])):
        layer = embed.hidden[s]
        assert isinstance(layer, nn.Linear)
        hidden = (pixels[..., bands] @ layer.weight.mT + layer.bias).clamp(min=0)
        hidden[~valid] = 0  # a missing pixel has no bias either
        kernel = embed.kernel(s, 4).reshape(4, 4, 5, 16).permute(3, 2, 0, 1)
        images = hidden.permute(0, 3, 4, 1, 2).flatten(0, 1)
        expected = F.conv2d(images, kernel, stride=4).unflatten(0, (2, 3)).permute(0, 3, 4, 1, 2)
        torch.testing.assert_close(tokens[..., s, :], expected + embed.bias[s])


def test_statistics_are_of_valid_pixels() -> None:
    embed = PatchEmbed(OPTICAL, 16, 4, pixel_hidden_width=None, statistics=True).double()
    pixels, valid = torch.rand(1, 4, 4, 1, 4, dtype=DOUBLE), torch.rand(1, 4, 4, 1) > 0.4
    pixels = pixels * valid[..., None]
    token = embed(patchify(pixels, 4), valid)[0, 0, 0, 0, 1]
    nir = pixels[valid][:, 3]
    statistics = torch.stack([(nir.mean() - 0.5) / 0.25, (nir.std(correction=0) + 0.01).log() + 3])
    linear = patchify(pixels, 4)[..., 3:].flatten() @ embed.kernel(1, 4) + embed.bias[1]
    torch.testing.assert_close(token, linear + embed.statistics[1](statistics))


def test_patches_are_cut_pixel_by_pixel_and_row_by_row() -> None:
    pixels = torch.arange(4 * 4 * 2).reshape(1, 4, 4, 1, 2).float()
    whole = patchify(pixels, 2)
    assert whole.shape == (1, 2, 2, 1, 2, 2, 2)
    assert repatchify(whole, 2)[0, 1, 0, 0, 0].tolist() == [16, 17, 18, 19, 24, 25, 26, 27]
    assert repatchify(whole, 1)[0, 1, 0, 0].tolist() == [[16, 17], [18, 19], [24, 25], [26, 27]]
    coarse = patchify(pixels, 4)
    assert torch.equal(repatchify(coarse, 2)[0, 0, 0, 0], repatchify(whole, 2)[0].flatten(0, 3))
