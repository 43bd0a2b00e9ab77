"""Losses equal the plain computation: dense tokens, whole similarity matrices, torch's own cross-entropy."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from building import MODALITIES, dense_targets, make_batch, query_sampling_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_patch.data.batch import Batch, QuerySampling
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.packing import pack
from hybrid_patch.data.patchify import patchify, repatchify
from hybrid_patch.loss.instance import instance_contrast
from hybrid_patch.loss.logsumexp import Backend
from hybrid_patch.loss.patch_discrimination import count_equal, patch_discrimination
from hybrid_patch.loss.queries import Queries, all_queries, draw_queries
from hybrid_patch.loss.reconstruction import reconstruction
from hybrid_patch.loss.targets import RandomTargets, TargetKeys
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid
from hybrid_patch.model.upsampler import TokenSpec
from hybrid_patch.model.upsampler.learned import Learned

DOUBLE = torch.float64


@dataclasses.dataclass
class Case:
    """Hidden tokens of a modality: what is compared, and the plain targets."""

    coarse: Tensor
    grid: TokenGrid
    upsampler: Learned
    factor: int
    keys: TargetKeys
    dense_targets: Tensor
    pixels: Tensor
    loss_mask: Tensor
    queries: Queries

    def fine(self, positions: Positions | None = None) -> FineTokens:
        return self.upsampler(self.grid, self.factor, positions or self.queries)


def case(
    name: str, processing: int, output: int, batch: Batch | None = None, width: int = 24, coded: bool | None = None
) -> Case:
    torch.manual_seed(1)
    batch = batch or make_batch(processing, missing=0.15)
    factor, hidden = processing // output, batch.masks[name] == Mask.DECODE
    coarse = torch.randn(*hidden.shape, width, dtype=DOUBLE, requires_grad=True)
    upsampler = Learned(TokenSpec(width, {factor}), width=8).double()
    for parameter in upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    cells = batch.decoded.each[name]
    targets = RandomTargets(MODALITIES, width, [output], seed=0, centre=True).double()
    patches = repatchify(patchify(batch.pixels[name].double(), processing), output).flatten(1, 3)
    sets = len(MODALITIES[name].band_sets)
    pixels, band_set = cells.over(sets).gather(patches), cells.index % sets
    loss_mask = batch.valid_patches(name, cells, output)
    loss_mask[2:4] = False  # a sample with nothing to decode
    keys = targets.keys(name, pixels, band_set, output, name == "cover" if coded is None else coded)
    dense = dense_targets(targets, name, pixels, band_set, output)
    grid = TokenGrid(coarse, hidden)
    return Case(coarse, grid, upsampler, factor, keys, dense, pixels, loss_mask, all_queries(cells, factor))


def plain_losses(c: Case, temperature: float, merge_equal: bool) -> list[Tensor]:
    """Of each token, sample by sample: normalise everything, cross-entropy over the whole matrix, times 2τ."""
    losses = []
    for p, t, chosen in zip(c.fine(all_positions(c)).dense(), c.dense_targets, c.loss_mask, strict=True):
        p, t = F.normalize(p[chosen], dim=-1), F.normalize(t[chosen], dim=-1)
        logits = p @ t.mT / temperature
        if merge_equal:
            same = (t[:, None] - t[None]).abs().amax(-1) < 1e-12
            logits = logits.masked_fill(same & ~torch.eye(len(t)).bool(), -torch.inf)
        losses.append(2 * temperature * F.cross_entropy(logits, torch.arange(len(p)), reduction="none"))
    return losses


def all_positions(c: Case) -> Positions:
    return Positions(c.queries.cells, torch.arange(c.factor**2))


def mean(losses: list[Tensor]) -> Tensor:
    return torch.stack([x.mean() if len(x) else x.sum() for x in losses])


def our_loss(c: Case, temperature: float, backend: Backend = "auto", most: int | None = None) -> Tensor:
    return patch_discrimination(c.fine(), c.keys, c.loss_mask, c.queries, temperature, most, backend, chunk=7)


@pytest.mark.parametrize("name", list(MODALITIES))
@pytest.mark.parametrize(("processing", "output"), [(8, 1), (4, 2), (8, 8), (1, 1)])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("backend", ["auto", "chunked"])
def test_loss_and_gradient_are_those_of_the_plain_cross_entropy(
    name: str, processing: int, output: int, temperature: float, backend: Backend
) -> None:
    c = case(name, processing, output)
    loss = our_loss(c, temperature, backend, 4 if name == "cover" and output == 1 else None)
    expected = mean(plain_losses(c, temperature, name == "cover"))
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    assert loss[2:4].tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(loss.sum(), c.coarse, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), c.coarse)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["height", "cover"])
@pytest.mark.parametrize("most", [None, 5])
def test_gradcheck_of_the_reference_path(name: str, most: int | None) -> None:
    c = case(name, 8, 4, make_batch(8, samples=2, timesteps=1), width=12)
    c.loss_mask[2:4] = True
    if most is not None:
        cells = c.queries.cells
        c.queries = draw_queries(cells, 2, most, 2, query_sampling_for(4, most=most))

    def loss(coarse: Tensor) -> Tensor:
        c.grid = TokenGrid(coarse, c.grid.mask)
        return our_loss(c, 0.1, "reference")

    assert torch.autograd.gradcheck(loss, (c.coarse,), fast_mode=True)


@pytest.mark.parametrize("name", ["optical", "cover"])
def test_exact_duplicates_are_no_negatives_of_each_other(name: str) -> None:
    batch = make_batch(8)
    batch.pixels["optical"][:, 3:9] = batch.pixels["optical"][:, :1, :1]  # half of the ground is one colour
    c = case(name, 8, 1, batch, coded=True)
    expected = plain_losses(c, 0.1, merge_equal=True)
    torch.testing.assert_close(our_loss(c, 0.1), mean(expected), rtol=1e-9, atol=1e-9)
    plain = case(name, 8, 1, batch, coded=False)
    torch.testing.assert_close(our_loss(plain, 0.1), mean(plain_losses(plain, 0.1, False)), rtol=1e-9, atol=1e-9)
    assert (our_loss(plain, 0.1) > our_loss(c, 0.1))[:2].all()


def test_nothing_to_decode_anywhere_is_an_exact_finite_zero() -> None:
    c = case("optical", 8, 1)
    c.loss_mask[:] = False
    loss = our_loss(c, 0.1)
    loss.sum().backward()
    assert loss.tolist() == [0] * 6
    assert c.coarse.grad is not None
    assert not c.coarse.grad.any()


FULL = [(name, *draw) for draw in ((8, 200), (8, 64), (8, 2), (2, 9), (1, 3)) for name in ("optical", "cover")]


@pytest.mark.parametrize(
    ("name", "factor", "most"),
    [("optical", 8, 7), ("cover", 8, 7), *(pytest.param(*each, marks=pytest.mark.slow) for each in FULL)],
)
def test_drawn_queries_estimate_the_same_loss(name: str, factor: int, most: int) -> None:
    """Over many draws the mean comes as near as its own spread allows, and the work is bounded."""
    c = case(name, factor, 1, make_batch(factor, missing=0.3))
    cells = c.queries.cells
    usual = round(0.5 * cells.length)
    expected = mean(plain_losses(c, 0.1, name == "cover")).detach()
    estimates = []
    for seed in range(150):
        c.queries = draw_queries(cells, factor, most, usual, query_sampling_for(factor**2, seed, most))
        drawn = c.queries
        assert drawn.cells.index.shape[1] * len(drawn.subpixels) <= most
        estimates.append(our_loss(c, 0.1).detach())
    values = torch.stack(estimates)
    error, spread = values.mean(0) - expected, values.std(0) / len(values) ** 0.5
    assert (error.abs() <= 4.5 * spread + 1e-9).all()


def test_the_gradient_of_drawn_queries_is_unbiased_too() -> None:
    c = case("optical", 8, 1)
    cells = c.queries.cells
    (expected,) = torch.autograd.grad(mean(plain_losses(c, 0.1, False)).sum(), c.coarse)
    total = torch.zeros_like(expected)
    for first in range(0, 64, 4):  # every place once
        draw = dataclasses.replace(query_sampling_for(64), subpixels=torch.arange(64).roll(-first))
        c.queries = draw_queries(cells, 8, 32, 8, draw)
        assert c.queries.subpixels.tolist() == list(range(first, first + 4))
        total += torch.autograd.grad(our_loss(c, 0.1).sum(), c.coarse)[0] / 16
    torch.testing.assert_close(total, expected, rtol=1e-8, atol=1e-10)


def test_drawn_cells_stand_for_all_cells() -> None:
    """Over a fine grid of strata every cell is drawn equally often, whatever their number."""
    mask = torch.zeros(4, 40).bool()
    for sample, count in enumerate((40, 23, 7, 1)):
        mask[sample, :count] = True
    cells, total = pack(mask), torch.zeros(4, 40)
    for u in (torch.arange(460) + 0.5) / 460:
        queries = draw_queries(cells, 1, 10, 40, QuerySampling(torch.zeros(1).long(), u.expand(10)))
        drawn = queries.cells
        weight = queries.weight[:, None] * drawn.valid()
        total.scatter_add_(1, drawn.index, weight / 460)
    torch.testing.assert_close(total, mask.float(), rtol=0.02, atol=1e-6)


def test_few_tokens_are_all_queries() -> None:
    cells = pack(torch.ones(2, 5).bool())
    for most in (None, 5 * 64, 10**6):
        assert not draw_queries(cells, 8, most, 5, query_sampling_for(64, most=most or 0)).drawn
    assert draw_queries(cells, 8, 319, 5, query_sampling_for(64, most=319)).drawn


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), kinds=st.integers(1, 6))
def test_equal_codes_are_counted(seed: int, n: int, kinds: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    kind = torch.randint(kinds, (2, n), generator=rng)
    mask = torch.rand(2, n, generator=rng) < 0.7
    code = torch.randn(kinds, generator=rng, dtype=DOUBLE)[kind]
    first, counts, which = count_equal(code, mask, min(n, kinds + 1))
    for sample in range(2):
        masked = kind[sample][mask[sample]]
        actual = {int(kind[sample][i]): int(c) for i, c in zip(first[sample], counts[sample], strict=True) if c}
        assert actual == {int(k): int((masked == k).sum()) for k in masked.unique()}
        for i in torch.nonzero(mask[sample]).flatten():
            assert kind[sample, first[sample, which[sample, i]]] == kind[sample, i]


@pytest.mark.parametrize("output", [1, 2, 4])
def test_equal_patches_of_a_map_have_equal_codes(output: int) -> None:
    rng = torch.Generator().manual_seed(0)
    kind = torch.randint(3, (2, 9 * 4, 9 * 4, 1), generator=rng).repeat_interleave(4, 1)[:, : 9 * 4]
    cells = repatchify(patchify(F.one_hot(kind, 4).float(), 4), output).flatten(1, 3)
    targets = RandomTargets(MODALITIES, 200, [output], seed=0, centre=True)
    code = targets.keys("cover", cells, torch.zeros(2, 81).long(), output, coded=True).code
    assert code is not None
    mask = torch.ones(2, (36 // output) ** 2).bool()
    _, counts, which = count_equal(code.flatten(1), mask, mask.shape[1])
    flat = cells.flatten(1, 2)
    assert torch.equal(counts.gather(1, which), (flat[:, :, None] == flat[:, None]).all(-1).sum(-1))


def test_instance_contrast_is_symmetric_cross_entropy() -> None:
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    similarity = F.cosine_similarity(a[:, None], b[None], dim=-1) / 0.1
    label = torch.arange(5)
    expected = (F.cross_entropy(similarity, label) + F.cross_entropy(similarity.mT, label)) / 2
    torch.testing.assert_close(instance_contrast(a, b, 0.1), expected)
    assert instance_contrast(a, a, 0.01) < 0.01


@pytest.mark.parametrize("output", [1, 2])
def test_reconstruction_is_the_mean_squared_error_of_hidden_pixels(output: int) -> None:
    c = case("optical", 4, output)
    weight, bias = torch.randn(24, 4 * output**2, dtype=DOUBLE), torch.randn(4 * output**2, dtype=DOUBLE)
    columns = RandomTargets(MODALITIES, 24, [output], seed=0, centre=True).columns("optical", output)
    band_mask = columns[c.queries.cells.index % 2][..., : 4 * output**2]
    loss = reconstruction(c.fine().transform(weight, bias), c.pixels, band_mask, c.loss_mask, c.queries)
    assert loss[2:4].tolist() == [0, 0]
    for i in (0, 1, 4, 5):
        predicted = c.fine().dense()[i] @ weight + bias
        errors = ((predicted - c.pixels[i]).square() * band_mask[i][:, None]).sum(-1) / band_mask[i][:, None].sum(-1)
        torch.testing.assert_close(loss[i], errors[c.loss_mask[i]].mean())
