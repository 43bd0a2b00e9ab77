"""Targets are frozen, linear in the pixels, and at the output patch size."""

import pytest
import torch
from building import COVER, MODALITIES, OPTICAL, dense_targets, make_batch
from torch import Tensor

from hybrid_patch.data.patchify import patchify, repatchify
from hybrid_patch.loss.targets import RandomTargets


def cells_of(name: str, pixels: Tensor, output: int) -> tuple[Tensor, Tensor]:
    """Output patches of all cells of 8 pixels a side, band set by band set, and their band sets."""
    sets = len(MODALITIES[name].band_sets)
    cells = repatchify(patchify(pixels, 8), output).flatten(1, 3)
    return cells.repeat_interleave(sets, 1), torch.arange(cells.shape[1] * sets).expand(len(cells), -1) % sets


@pytest.mark.parametrize("output", [1, 2, 4, 8])
@pytest.mark.parametrize("width", [16, 64, 600])
@pytest.mark.parametrize("name", list(MODALITIES))
def test_keys_give_the_products_with_unit_targets(output: int, width: int, name: str) -> None:
    targets = RandomTargets(MODALITIES, width, [output], seed=0, centre=True).double()
    pixels, band_set = cells_of(name, make_batch(8).pixels[name].double(), output)
    dense = dense_targets(targets, name, pixels, band_set, output)
    assert dense.shape[2:] == ((8 // output) ** 2, width)
    unit = dense / dense.norm(dim=-1, keepdim=True)
    prediction = torch.randn(width, dtype=torch.float64)
    keys = targets.keys(name, pixels, band_set, output, coded=False)
    query = prediction if keys.projection is None else prediction @ keys.projection
    torch.testing.assert_close(keys.vectors @ query, unit @ prediction)
    assert keys.vectors.shape[-1] <= width


@pytest.mark.parametrize("output", [1, 2])
def test_a_target_is_a_projection_of_its_band_sets_own_pixels(output: int) -> None:
    targets = RandomTargets(MODALITIES, 32, [output], seed=0, centre=False)
    table = targets.table("optical", output)
    pixels, band_set = cells_of("optical", make_batch(8).pixels["optical"], output)
    actual = dense_targets(targets, "optical", pixels, band_set, output)
    by_channel = pixels.unflatten(-1, (output**2, 4))
    for s, channels in enumerate(([0, 1, 2], [3])):
        band_set_pixels = by_channel[..., channels].flatten(-2)
        weight = table[:-2].unflatten(0, (output**2, 4))[:, channels].flatten(0, 1)
        expected = band_set_pixels @ weight + table[-2 + s]
        torch.testing.assert_close(actual[:, s::2], expected[:, s::2])


def test_a_target_is_of_its_own_pixel_alone() -> None:
    targets = RandomTargets(MODALITIES, 32, [1], seed=0, centre=True)
    images = make_batch(8).pixels["optical"]
    changed = images.clone()
    changed[0, 5, 6, 1, 1] += 1  # green, at the second date
    before, after = (dense_targets(targets, "optical", *cells_of("optical", x, 1), 1) for x in (images, changed))
    differs = (before != after).any(-1)
    assert differs[0, 2, 5 * 8 + 6]  # of cells by row, column, date and band set
    assert differs.sum() == 1


def test_targets_are_frozen_drawn_from_their_seed_and_kept() -> None:
    first, again = (RandomTargets(MODALITIES, 32, [1, 8], seed=0, centre=True) for _ in range(2))
    other = RandomTargets(MODALITIES, 32, [1, 8], seed=1, centre=True)
    assert not list(first.parameters())
    assert len(first.state_dict()) == 6
    for name, buffer in first.state_dict().items():
        assert torch.equal(buffer, again.state_dict()[name])
        assert not torch.equal(buffer, other.state_dict()[name])


def test_another_modality_does_not_change_the_targets() -> None:
    alone = RandomTargets({"optical": OPTICAL}, 32, [1], seed=0, centre=True)
    both = RandomTargets({"cover": COVER, "optical": OPTICAL}, 32, [1], seed=0, centre=True)
    for name, buffer in alone.state_dict().items():
        assert torch.equal(buffer, both.state_dict()[name])


@pytest.mark.parametrize("patch_size", [1, 8])
def test_weights_have_the_variance_that_keeps_targets_level(patch_size: int) -> None:
    targets = RandomTargets({"optical": OPTICAL}, 4096, [patch_size], seed=0, centre=True)
    table = targets.table("optical", patch_size)
    for s, channels in enumerate((3, 1)):
        band_set_pixels = targets.columns("optical", patch_size)[s, :-2]
        assert table[:-2][band_set_pixels].var().item() == pytest.approx(1 / (channels * patch_size**2), rel=0.05)
        assert table[-2 + s].std().item() == pytest.approx(0.1, rel=0.05)
