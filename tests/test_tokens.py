"""Fine tokens are held to interpolation and arithmetic done the plain way."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_patch.nn.upsampler.bilinear import Bilinear
from hybrid_patch.nn.upsampler.learned import Learned, TransposedConvolution
from hybrid_patch.tokens import FineTokens, TokenGrid, interpolation, repeat_cells

RATIOS = [(8, 8), (8, 4), (8, 2), (8, 1), (4, 1), (6, 2), (6, 1), (5, 1), (2, 1)]
AXES = [(), (2,), (2, 3)]


def fine_tokens(factor: int, axes: tuple[int, ...], detail: bool, masked: bool = True, seed: int = 0) -> FineTokens:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, 3, 4, *axes, 6, generator=rng, dtype=torch.float64)
    mask = torch.rand(coarse.shape[:-1], generator=rng) < 0.6 if masked else torch.ones(coarse.shape[:-1]).bool()
    coarse[~mask] = torch.nan  # never read
    if not detail:
        return FineTokens(coarse, mask, factor)
    g = torch.randn(2, 3 * factor, 4 * factor, *axes, 5, generator=rng, dtype=torch.float64)
    return FineTokens(coarse, mask, factor, g, torch.randn(5, 6, generator=rng, dtype=torch.float64))


def plain(fine: FineTokens) -> Tensor:
    """U(P m) / U(m) + G V by torch's own interpolation, one image per trailing axis."""
    b, h, w, *axes, d = fine.coarse.shape
    tokens = torch.where(fine.mask[..., None], fine.coarse, 0).reshape(b, h, w, -1, d)
    mask = fine.mask.reshape(b, h, w, -1).double()

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=fine.factor, mode="bilinear", align_corners=False)

    columns = []
    for i in range(tokens.shape[3]):
        m = mask[:, None, :, :, i]
        columns.append((up(tokens[:, :, :, i].movedim(-1, 1) * m) / up(m).clamp(min=1e-3)).movedim(1, -1))
    dense = torch.stack(columns, dim=3).reshape(b, h * fine.factor, w * fine.factor, *axes, d)
    if fine.low_rank is None:
        return dense
    detail, basis = fine.low_rank
    return dense + detail @ basis


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8])
def test_the_interpolation_matrix_is_torchs(size: int, factor: int) -> None:
    eye = torch.eye(size, dtype=torch.float64)[None]
    theirs = F.interpolate(eye, scale_factor=factor, mode="linear", align_corners=False)[0].mT
    ours = interpolation(size, factor, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours.sum(1), torch.ones(size * factor, dtype=torch.float64))


@pytest.mark.parametrize(("processing", "output"), RATIOS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("detail", [False, True])
def test_factored_arithmetic_is_dense_arithmetic(
    processing: int, output: int, axes: tuple[int, ...], detail: bool
) -> None:
    fine = fine_tokens(processing // output, axes, detail)
    expected = plain(fine)
    inside = fine.fine_mask
    assert fine.dense().shape == expected.shape
    torch.testing.assert_close(fine.dense()[inside], expected[inside])
    torch.testing.assert_close(fine.squared_norm()[inside], expected.square().sum(-1)[inside])
    weight, bias = torch.randn(6, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(fine.project(weight)[inside], (expected @ weight)[inside])
    torch.testing.assert_close(fine.transform(weight, bias).dense()[inside], (expected @ weight + bias)[inside])
    pooled = torch.where(inside[..., None], expected, 0).flatten(1, -2).sum(1)
    torch.testing.assert_close(fine.pooled_sum(inside), pooled)


@settings(max_examples=30, deadline=None)
@given(
    factor=st.integers(1, 6), axes=st.sampled_from(AXES), detail=st.booleans(), masked=st.booleans(),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_norms_and_projections_agree_with_dense(
    factor: int, axes: tuple[int, ...], detail: bool, masked: bool, seed: int
) -> None:
    fine = fine_tokens(factor, axes, detail, masked, seed)
    inside, dense = fine.fine_mask, fine.dense()
    torch.testing.assert_close(fine.squared_norm()[inside], dense.square().sum(-1)[inside])
    weight = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(fine.project(weight)[inside], (dense @ weight)[inside])


@pytest.mark.parametrize("detail", [False, True])
def test_gradients_of_the_factored_forms(detail: bool) -> None:
    fine = fine_tokens(2, (2,), detail)
    coarse = torch.where(fine.mask[..., None], fine.coarse, 0).requires_grad_()
    inside = fine.fine_mask

    def norms(coarse: Tensor) -> Tensor:
        return FineTokens(coarse, fine.mask, 2, fine.detail, fine.basis).squared_norm()[inside]

    def sums(coarse: Tensor) -> Tensor:
        return FineTokens(coarse, fine.mask, 2, fine.detail, fine.basis).pooled_sum(
            inside & (torch.rand(inside.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
        )

    assert torch.autograd.gradcheck(norms, (coarse,))
    assert torch.autograd.gradcheck(sums, (coarse,))


@pytest.mark.parametrize(("processing", "output"), RATIOS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", ["bilinear", "learned"])
def test_upsamplers_start_as_interpolation(processing: int, output: int, axes: tuple[int, ...], name: str) -> None:
    factor = processing // output
    upsampler = Bilinear() if name == "bilinear" else Learned(6, 16, {factor}).double()
    plain_fine = fine_tokens(factor, axes, detail=False)
    fine = upsampler(TokenGrid(plain_fine.coarse, plain_fine.mask), factor)
    assert fine.fine_mask.shape == (2, 3 * factor, 4 * factor, *axes)
    torch.testing.assert_close(fine.dense()[fine.fine_mask], plain(plain_fine)[fine.fine_mask])
    if factor == 1:
        torch.testing.assert_close(fine.dense()[fine.fine_mask], plain_fine.coarse[plain_fine.mask], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["bilinear", "learned"])
def test_hidden_tokens_do_not_bleed_into_visible_ones(name: str) -> None:
    upsampler = Bilinear() if name == "bilinear" else Learned(6, 16, {4}).double()
    for parameter in upsampler.parameters():
        torch.nn.init.normal_(parameter)
    source = fine_tokens(4, (2, 3), detail=False)
    results = []
    for value in (0.0, 1e6, torch.nan):
        tokens = torch.where(source.mask[..., None], source.coarse, value)
        fine = upsampler(TokenGrid(tokens, source.mask), 4)
        inside = fine.fine_mask
        results.append((fine.dense()[inside], fine.squared_norm()[inside], fine.pooled_sum(inside)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_the_learned_stages_are_transposed_convolutions() -> None:
    upsampler = Learned(6, 16, {2, 4, 8}).double()
    grid = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    x = grid.movedim(-1, 1)
    for stage in upsampler.stages:
        assert isinstance(stage, TransposedConvolution)
        kernel = stage.linear.weight.reshape(2, 2, -1, stage.linear.in_features).permute(3, 2, 0, 1)
        bias = stage.linear.bias.reshape(4, -1)
        y = F.conv_transpose2d(x, kernel, stride=2)
        y = y + bias.reshape(2, 2, -1).movedim(-1, 0).repeat(1, x.shape[2], x.shape[3])
        x = F.gelu(y)
    fine = upsampler(TokenGrid(grid, torch.ones(2, 3, 4).bool()), 8)
    assert fine.detail is not None
    torch.testing.assert_close(fine.detail[..., -8:], x.movedim(1, -1))


def test_a_new_stage_of_the_learned_upsampler_adds_nothing_yet() -> None:
    upsampler = Learned(6, 16, {2, 4, 8}).double()
    torch.nn.init.normal_(upsampler.exits["2"])  # trained at 8→4, and now comes 8→2
    grid = TokenGrid(torch.randn(1, 2, 2, 6, dtype=torch.float64), torch.ones(1, 2, 2).bool())
    learned = upsampler(grid, 2).dense() - Bilinear()(grid, 2).dense()
    assert learned.abs().min() > 0
    torch.testing.assert_close(upsampler(grid, 4).dense(), Bilinear()(grid, 4).dense() + repeat_cells(learned, 2))


def test_a_detail_without_its_basis_is_refused() -> None:
    with pytest.raises(ValueError, match="detail and basis come together"):
        FineTokens(torch.zeros(1, 2, 2, 6), torch.ones(1, 2, 2).bool(), 1, detail=torch.zeros(1, 2, 2, 5))


def test_a_factor_that_no_stage_has_is_refused() -> None:
    grid = TokenGrid(torch.zeros(1, 2, 2, 6), torch.ones(1, 2, 2).bool())
    with pytest.raises(ValueError, match="factor 4"):
        Learned(6, 16, {8})(grid, 4)
