"""Losses are held to the plain thing: dense tokens, whole similarity matrices, torch's own cross-entropy."""

import pytest
import torch
import torch.nn.functional as F
from building import MODALITIES, make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_patch.loss.instance import instance_contrast
from hybrid_patch.loss.logsumexp import Backend
from hybrid_patch.loss.patch_discrimination import equal_counts, patch_discrimination
from hybrid_patch.loss.reconstruct import reconstruction
from hybrid_patch.masking import Mask
from hybrid_patch.nn.patch_embed import patches
from hybrid_patch.nn.target import RandomTargets
from hybrid_patch.nn.upsampler.learned import Learned
from hybrid_patch.tokens import FineTokens, TokenGrid

DOUBLE = torch.float64


def predictions(name: str, factor: int, mask: Tensor, width: int = 24) -> tuple[Tensor, FineTokens]:
    """Coarse tokens that want a gradient, and a learned upsampling of them."""
    torch.manual_seed(1)
    coarse = torch.randn(*mask.shape, width, dtype=DOUBLE, requires_grad=True)
    upsampler = Learned(width, 8, {factor}).double()
    for parameter in upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return coarse, upsampler(TokenGrid(coarse, mask), factor)


def plain_loss(fine: FineTokens, target: Tensor, take: Tensor, temperature: float, merge_equal: bool) -> Tensor:
    """`[B]`, sample by sample: normalise everything, cross-entropy over the whole matrix, times 2τ."""
    losses = []
    for p, t, chosen in zip(fine.dense(), target, take, strict=True):
        p, t = F.normalize(p[chosen], dim=-1), F.normalize(t[chosen], dim=-1)
        if len(p) == 0:
            losses.append(p.sum())
            continue
        logits = p @ t.mT / temperature
        if merge_equal:
            same = (t[:, None] - t[None]).abs().amax(-1) < 1e-12
            logits = logits.masked_fill(same & ~torch.eye(len(t)).bool(), -torch.inf)
        losses.append(2 * temperature * F.cross_entropy(logits, torch.arange(len(p))))
    return torch.stack(losses)


@pytest.mark.parametrize("name", list(MODALITIES))
@pytest.mark.parametrize(("processing", "output"), [(8, 1), (4, 2), (8, 8), (1, 1)])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("backend", ["auto", "chunked"])
def test_loss_and_gradient_are_those_of_the_plain_cross_entropy(
    name: str, processing: int, output: int, temperature: float, backend: Backend
) -> None:
    batch = make_batch(processing, missing=0.15)
    take = batch.selected(0, name, Mask.DECODE, processing, output)
    take[1] = False  # a sample with nothing to decode
    coarse, fine = predictions(name, processing // output, batch.views[0][name] == Mask.DECODE)
    targets = RandomTargets(MODALITIES, 24, [output], seed=0, centre=True).double()
    pixels = batch.pixels[name].double()
    merge = name == "cover"
    loss, some = patch_discrimination(
        fine, targets.keys(name, pixels, output), take, temperature, merge, backend, chunk=7
    )
    expected = plain_loss(fine, torch.stack(targets(name, pixels, output), dim=4), take, temperature, merge)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    assert some.tolist() == take.flatten(1).any(1).tolist()
    assert loss[1] == 0
    (gradient,) = torch.autograd.grad(loss.sum(), coarse, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), coarse)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-9)


def test_nothing_to_decode_anywhere_is_an_exact_finite_zero() -> None:
    batch = make_batch(8)
    hidden = torch.zeros_like(batch.views[0]["optical"]).bool()
    coarse, fine = predictions("optical", 8, hidden)
    keys = (
        RandomTargets(MODALITIES, 24, [1], seed=0, centre=True)
        .double()
        .keys("optical", batch.pixels["optical"].double(), 1)
    )
    loss, some = patch_discrimination(fine, keys, fine.fine_mask, 0.1, False, "auto", chunk=7)
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0]
    assert not some.any()
    assert coarse.grad is not None
    assert not coarse.grad.any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), kinds=st.integers(1, 6))
def test_equal_keys_are_counted(seed: int, n: int, kinds: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    kind = torch.randint(kinds, (2, n), generator=rng)
    keep = torch.rand(2, n, generator=rng) < 0.7
    counts = equal_counts(torch.randn(kinds, 3, generator=rng)[kind], keep)
    for sample in range(2):
        for i in torch.nonzero(keep[sample]).flatten():
            assert counts[sample, i] == (kind[sample][keep[sample]] == kind[sample, i]).sum()


@pytest.mark.parametrize("output", [1, 2, 4])
def test_equal_patches_of_a_map_are_counted(output: int) -> None:
    rng = torch.Generator().manual_seed(0)
    kind = torch.randint(3, (2, 9 * 4, 9 * 4, 1), generator=rng).repeat_interleave(4, 1)[:, : 9 * 4]
    pixels = F.one_hot(kind, 4).float()
    keys = RandomTargets(MODALITIES, 200, [output], seed=0, centre=True).keys("cover", pixels, output).vectors
    counts = equal_counts(keys.flatten(1, 4), torch.ones(2, (36 // output) ** 2).bool())
    cells = patches(pixels, output).flatten(1, 3)
    expected = (cells[:, :, None] == cells[:, None]).all(-1).sum(-1)
    assert torch.equal(counts, expected.float())


def test_instance_contrast_is_symmetric_cross_entropy() -> None:
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    similarity = F.cosine_similarity(a[:, None], b[None], dim=-1) / 0.1
    label = torch.arange(5)
    expected = (F.cross_entropy(similarity, label) + F.cross_entropy(similarity.mT, label)) / 2
    torch.testing.assert_close(instance_contrast(a, b, 0.1), expected)
    assert instance_contrast(a, a, 0.01) < 0.01


@pytest.mark.parametrize("output", [1, 2])
def test_reconstruction_is_the_mean_squared_error_of_hidden_pixels(output: int) -> None:
    batch = make_batch(4, missing=0.1)
    take = batch.selected(0, "optical", Mask.DECODE, 4, output)
    _, fine = predictions("optical", 4 // output, batch.views[0]["optical"] == Mask.DECODE)
    pixels = patches(batch.pixels["optical"].double()[..., :3], output)
    weight, bias = torch.randn(24, 3 * output**2, dtype=DOUBLE), torch.randn(3 * output**2, dtype=DOUBLE)
    loss, _ = reconstruction(fine, weight, bias, pixels, take, 0)
    for i in range(3):
        chosen = take[i, ..., 0]
        predicted = fine.dense()[i, ..., 0, :][chosen] @ weight + bias
        torch.testing.assert_close(loss[i], F.mse_loss(predicted, pixels[i][chosen]))
