"""Fine tokens equal torch's own interpolation and dense arithmetic."""

import pytest
import torch
import torch.nn.functional as F
from building import shaken, under, upsampler_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_patch.data.packing import Packing
from hybrid_patch.model.interpolation import (
    Interpolation,
    cells_aside,
    interpolation_weights,
    neighbouring_cells,
)
from hybrid_patch.model.tokens import DenseTokens, FineGrid, FineTokens, Positions, TokenGrid, images

RATIOS = [(8, 8), (8, 4), (8, 2), (8, 1), (4, 1), (6, 2), (6, 1), (5, 1), (2, 1)]
AXES = [(), (2,), (2, 3)]
INTERPOLATIONS: list[Interpolation] = ["bilinear", "nearest"]
INTERPOLATING = ["bilinear", "nearest", "learned", "subpixel"]
UPSAMPLERS = [*INTERPOLATING, "transposed"]
DOUBLE = torch.float64


def token_grid(axes: tuple[int, ...], masked: bool = True, seed: int = 0) -> TokenGrid:
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, 3, 4, *axes, 6, generator=rng, dtype=DOUBLE)
    mask = torch.rand(tokens.shape[:-1], generator=rng) < 0.6 if masked else torch.ones(tokens.shape[:-1]).bool()
    tokens[~mask] = torch.nan  # never read
    return TokenGrid(tokens, mask)


def fine_tokens(
    grid: TokenGrid,
    factor: int,
    detail: bool,
    positions: Positions | None = None,
    interpolation: Interpolation = "bilinear",
) -> FineTokens:
    """At all subpixels under the mask, unless said otherwise."""
    positions = positions or under(grid.mask, factor)
    if not detail:
        return FineTokens(grid, factor, positions, interpolation=interpolation)
    rng = torch.Generator().manual_seed(1)
    everywhere = torch.randn(2, grid.mask[0].numel(), factor**2, 5, generator=rng, dtype=DOUBLE)
    g = positions.cells.gather(everywhere)[:, :, positions.subpixels]
    return FineTokens(grid, factor, positions, g, torch.randn(5, 6, generator=rng, dtype=DOUBLE), interpolation)


def plain(grid: TokenGrid, factor: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """U(P m) / U(m) by torch's own interpolation, one image per trailing axis: `[B, cells, subpixels, D]`."""
    b, h, w, *_, d = grid.tokens.shape
    tokens = grid.masked().reshape(b, h, w, -1, d)
    mask = grid.mask.reshape(b, h, w, -1).double()

    def up(x: Tensor) -> Tensor:
        corners = False if interpolation == "bilinear" else None
        return F.interpolate(x, scale_factor=factor, mode=interpolation, align_corners=corners)

    columns = []
    for i in range(tokens.shape[3]):
        m = mask[:, None, :, :, i]
        columns.append((up(tokens[:, :, :, i].movedim(-1, 1) * m) / up(m).clamp(min=1e-3)).movedim(1, -1))
    dense = torch.stack(columns, dim=3)  # [B, H, W, ..., D]
    cells = dense.unflatten(1, (h, factor)).unflatten(3, (w, factor)).permute(0, 1, 3, 5, 2, 4, 6)
    return cells.reshape(b, h * w * len(columns), factor**2, d)


def at(values: Tensor, positions: Positions) -> Tensor:
    """Of values at all subpixels of all cells, those at the positions, one sample after the other."""
    return positions.cells.gather(values)[:, :, positions.subpixels][positions.cells.valid()]


def valid_rows(values: Tensor, positions: Positions) -> Tensor:
    return values[positions.cells.valid()]


def some(mask: Tensor, factor: int, seed: int) -> Positions:
    """Some of the cells under a mask, in any order, and some subpixels in them."""
    rng = torch.Generator().manual_seed(seed)
    chosen = []
    for row in mask.flatten(1):
        under = row.nonzero()[:, 0]
        chosen.append(under[torch.randint(len(under), (3,), generator=rng)])
    subpixels = torch.randperm(factor**2, generator=rng)[: max(factor**2 // 3, 1)]
    return Positions(Packing(torch.stack(chosen), None, mask[0].numel()), subpixels)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_interpolation_is_torchs(size: int, factor: int, interpolation: Interpolation) -> None:
    image = torch.randn(1, 1, size, size + 1, dtype=DOUBLE)
    corners = False if interpolation == "bilinear" else None
    theirs = F.interpolate(image, scale_factor=factor, mode=interpolation, align_corners=corners)
    weights = interpolation_weights(interpolation, factor, DOUBLE, image.device)
    aside = cells_aside(interpolation, factor)
    neighbours = image.flatten()[neighbouring_cells((size, size + 1), 1, aside, image.device)]
    ours = images((weights @ neighbours[..., None])[None, ..., 0], (size, size + 1), factor)
    torch.testing.assert_close(ours, theirs[:, 0])
    torch.testing.assert_close(weights.sum(1), torch.ones(factor**2, dtype=DOUBLE))


@pytest.mark.parametrize(("processing", "output"), RATIOS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_factored_arithmetic_is_dense_arithmetic(
    processing: int, output: int, axes: tuple[int, ...], detail: bool, everywhere: bool, interpolation: Interpolation
) -> None:
    grid, factor = token_grid(axes), processing // output
    positions = under(grid.mask, factor) if everywhere else some(grid.mask, factor, 0)
    fine = fine_tokens(grid, factor, detail, positions, interpolation)
    expected = at(plain(grid, factor, interpolation), positions)
    if fine.detail is not None and fine.basis is not None:
        expected = expected + valid_rows(fine.detail @ fine.basis, positions)
    torch.testing.assert_close(valid_rows(fine.dense(), positions), expected)
    torch.testing.assert_close(valid_rows(fine.squared_norm(), positions), expected.square().sum(-1))
    weight, bias = torch.randn(6, 3, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
    torch.testing.assert_close(valid_rows(fine.project(weight), positions), expected @ weight)
    torch.testing.assert_close(valid_rows(fine.transform(weight, bias).dense(), positions), expected @ weight + bias)
    mask = positions.cells.valid()[..., None] & (torch.rand(fine.squared_norm().shape) < 0.5)
    pooled = torch.where(mask[..., None], fine.dense(), 0).flatten(1, 2).sum(1)
    torch.testing.assert_close(fine.pooled_sum(mask), pooled)
    torch.testing.assert_close(fine.interpolated_sum(positions, mask) + fine.detail_sum(mask), pooled)
    share = torch.rand(mask.shape, dtype=DOUBLE)
    means = torch.einsum("bnp,bnpd->bnd", share, fine.dense())[:, :, None]
    torch.testing.assert_close(fine.cell_means(share).tokens, means)


@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_images_are_summed_over_timesteps_and_band_sets(
    factor: int, detail: bool, interpolation: Interpolation
) -> None:
    grid = token_grid((2, 3))
    positions = Positions.everywhere(grid.mask, factor)
    fine = fine_tokens(grid, factor, detail, positions, interpolation)
    dense = DenseTokens(fine.dense())
    mask = grid.mask.flatten(1)[..., None] & (torch.rand(2, 72, factor**2) < 0.5)
    expected = torch.where(mask[..., None], fine.dense(), 0).unflatten(1, (12, 6)).sum(2)
    for tokens in (fine, dense):
        torch.testing.assert_close(tokens.location_sums(mask, 12), expected)
        image = FineGrid(tokens, grid.mask, factor).stacked_images()
        assert image.shape == (2, 3 * factor, 4 * factor, 36)
        summed = FineGrid(tokens, grid.mask, factor).summed_images()
        torch.testing.assert_close(image.unflatten(-1, (6, 6)).sum(3), summed)
        # The token of the second row of cells, third column, at its last subpixel, of the first date and band set.
        row, column = 2 * factor - 1, 3 * factor - 1
        cell = (1 * 4 + 2) * 6
        chosen = torch.where(grid.mask.flatten(1)[:, cell, None], fine.dense()[:, cell, -1], 0)
        torch.testing.assert_close(image[:, row, column, :6], chosen)


@settings(max_examples=30)
@given(
    factor=st.integers(1, 6), axes=st.sampled_from(AXES), detail=st.booleans(), masked=st.booleans(),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_norms_and_projections_agree_with_dense(
    factor: int, axes: tuple[int, ...], detail: bool, masked: bool, seed: int
) -> None:
    grid = token_grid(axes, masked, seed)
    positions = under(grid.mask, factor)
    fine = fine_tokens(grid, factor, detail, positions)
    dense = valid_rows(fine.dense(), positions)
    torch.testing.assert_close(valid_rows(fine.squared_norm(), positions), dense.square().sum(-1))
    weight = torch.randn(6, 2, dtype=DOUBLE)
    torch.testing.assert_close(valid_rows(fine.project(weight), positions), dense @ weight)


@pytest.mark.parametrize("detail", [False, True])
def test_gradients_of_the_factored_forms(detail: bool) -> None:
    grid = token_grid((2,))
    tokens = grid.masked().requires_grad_()
    positions = under(grid.mask, 2)
    mask = positions.cells.valid()[..., None] & (torch.arange(4) != 1)

    def fine(tokens: Tensor) -> FineTokens:
        return fine_tokens(TokenGrid(tokens, grid.mask), 2, detail, positions)

    assert torch.autograd.gradcheck(lambda x: valid_rows(fine(x).squared_norm(), positions), (tokens,))
    assert torch.autograd.gradcheck(lambda x: fine(x).pooled_sum(mask), (tokens,))
    assert torch.autograd.gradcheck(
        lambda x: valid_rows(fine(x).project(torch.ones(6, 2).double()), positions), (tokens,)
    )


@pytest.mark.parametrize(("processing", "output"), RATIOS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", INTERPOLATING)
def test_upsamplers_start_as_interpolation(processing: int, output: int, axes: tuple[int, ...], name: str) -> None:
    factor, grid = processing // output, token_grid(axes)
    positions = under(grid.mask, factor)
    fine = upsampler_of(name, factor)(grid, factor, positions)
    assert fine.dense().shape == (2, positions.cells.index.shape[1], factor**2, 6)
    interpolation: Interpolation = "nearest" if name == "nearest" else "bilinear"
    torch.testing.assert_close(valid_rows(fine.dense(), positions), at(plain(grid, factor, interpolation), positions))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_at_factor_one_nothing_changes(axes: tuple[int, ...], name: str) -> None:
    grid = token_grid(axes)
    positions = under(grid.mask, 1)
    fine = upsampler_of(name, 1, 8)(grid, 1, positions)
    torch.testing.assert_close(valid_rows(fine.dense(), positions)[:, 0], grid.tokens[grid.mask], rtol=0, atol=0)
    if name in ("bilinear", "nearest", "transposed"):
        assert not list(upsampler_of(name, 1).parameters())


@pytest.mark.parametrize("name", UPSAMPLERS)
@pytest.mark.parametrize("factor", [2, 3, 4, 6, 8])
def test_upsamplers_work_on_the_positions_asked_for(name: str, factor: int) -> None:
    """Of some subpixels, of one, and of all in another order."""
    grid, upsampler = token_grid((2, 3)), shaken(upsampler_of(name, factor))
    whole = upsampler(grid, factor, Positions.everywhere(grid.mask, factor)).dense()
    cells = some(grid.mask, factor, 1)
    for number in (len(cells.subpixels), 1, factor**2):
        part = Positions(cells.cells, torch.randperm(factor**2)[:number])
        torch.testing.assert_close(valid_rows(upsampler(grid, factor, part).dense(), part), at(whole, part))


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_hidden_tokens_do_not_bleed_into_visible_ones(name: str) -> None:
    upsampler, source = shaken(upsampler_of(name, 4)), token_grid((2, 3))
    positions = under(source.mask, 4)
    results = []
    for value in (0.0, 1e6, torch.nan):
        tokens = torch.where(source.mask[..., None], source.tokens, value)
        fine = upsampler(TokenGrid(tokens, source.mask), 4, positions)
        mask = positions.cells.valid()[..., None].expand(-1, -1, 16)
        results.append(
            (valid_rows(fine.dense(), positions), valid_rows(fine.squared_norm(), positions), fine.pooled_sum(mask))
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_dense_tokens_answer_as_factored_ones_do() -> None:
    grid = token_grid((2,))
    positions = some(grid.mask, 4, 0)
    fine = fine_tokens(grid, 4, True, positions)
    dense, weight, bias = DenseTokens(fine.dense()), torch.randn(6, 5).double(), torch.randn(5).double()
    mask = torch.rand(fine.squared_norm().shape) < 0.5
    pairs: list[tuple[Tensor, Tensor]] = [
        (dense.project(weight), fine.project(weight)),
        (dense.squared_norm(), fine.squared_norm()),
        (dense.transform(weight, bias).dense(), fine.transform(weight, bias).dense()),
        (dense.pooled_sum(mask), fine.pooled_sum(mask)),
        (dense.interpolated_sum(positions, mask) + dense.detail_sum(mask), fine.pooled_sum(mask)),
        (dense.cell_means(mask.double()).dense(), fine.cell_means(mask.double()).dense()),
    ]
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected)
    assert DenseTokens(dense.tokens.bfloat16()).float().dense().dtype == torch.float32


def test_a_detail_without_its_basis_is_refused() -> None:
    grid = TokenGrid(torch.zeros(1, 2, 2, 6), torch.ones(1, 2, 2).bool())
    with pytest.raises(ValueError, match="detail and basis come together"):
        FineTokens(grid, 1, under(grid.mask, 1), detail=torch.zeros(1, 4, 1, 5))
