"""Targets are frozen, linear in the pixels, and at the output patch size."""

import pytest
import torch
from building import COVER, MODALITIES, OPTICAL, make_batch

from hybrid_patch.nn.target import RandomTargets


@pytest.mark.parametrize("output", [1, 2, 4, 8])
@pytest.mark.parametrize("width", [16, 64, 600])
@pytest.mark.parametrize("name", list(MODALITIES))
def test_keys_give_the_products_with_unit_targets(output: int, width: int, name: str) -> None:
    targets = RandomTargets(MODALITIES, width, [output], seed=0, centre=True).double()
    pixels = make_batch(8).pixels[name].double()
    dense = torch.stack(targets(name, pixels, output), dim=4)
    assert dense.shape[1:3] == (16 // output, 16 // output)
    unit = dense / dense.norm(dim=-1, keepdim=True)
    prediction = torch.randn(width, dtype=torch.float64)
    keys = targets.keys(name, pixels, output)
    query = prediction if keys.projection is None else prediction @ keys.projection
    torch.testing.assert_close(keys.vectors @ query, unit @ prediction)
    assert keys.vectors.shape[-1] <= width


def test_a_target_is_a_projection_of_its_own_pixel_alone() -> None:
    targets = RandomTargets(MODALITIES, 32, [1], seed=0, centre=True)
    pixels = make_batch(8).pixels["optical"]
    before = torch.stack(targets("optical", pixels, 1), dim=4)
    changed = pixels.clone()
    changed[0, 5, 6, 1] += 1
    after = torch.stack(targets("optical", changed, 1), dim=4)
    differs = (before != after).any(-1)
    assert differs[0, 5, 6, 1].all()
    assert differs.sum() == 2  # the two band sets of that pixel


def test_targets_are_frozen_drawn_from_their_seed_and_kept() -> None:
    first, again = (RandomTargets(MODALITIES, 32, [1, 8], seed=0, centre=True) for _ in range(2))
    other = RandomTargets(MODALITIES, 32, [1, 8], seed=1, centre=True)
    assert not list(first.parameters())
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
    table = targets.projection("optical", 0, patch_size)
    assert table[:-1].var().item() == pytest.approx(1 / (3 * patch_size**2), rel=0.05)
    assert table[-1].std().item() == pytest.approx(0.1, rel=0.05)
