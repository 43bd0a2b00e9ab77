"""Tokens on a grid, at the processing patch size (`TokenGrid`) and at the output patch size (`FineTokens`).

A fine token is an interpolation of coarse tokens plus, for learned upsamplers, a detail of low rank:

    fine = U P + G V        U: fixed weights    P: coarse tokens, width D    G: detail, width r    V: basis [r, D]

`FineTokens` keeps the factors. What is linear in a fine token commutes with U, so it is computed on coarse tokens and
its (narrow) result is interpolated: only `dense` makes a D-wide tensor at fine positions. `DenseTokens` are that.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hybrid_patch.data.packing import Packing, everything, take_rows
from hybrid_patch.model.interpolation import Interpolation, cells_aside, interpolation_weights, neighbouring_cells
from hybrid_patch.model.profiling import UPSAMPLER, profiled

SMALLEST_WEIGHT = 1e-3
"""Guards padding against 0/0; a cell under the mask has a weight of 1/4 or more in its own subpixels."""


@dataclasses.dataclass(frozen=True)
class TokenGrid:
    """Tokens at the processing patch size. The mask is True where there is one; elsewhere `tokens` is never read."""

    tokens: Float[Tensor, "b h w *ts d"]
    mask: Bool[Tensor, "b h w *ts"]

    def masked(self) -> Float[Tensor, "b h w *ts d"]:
        return torch.where(self.mask[..., None], self.tokens, 0)


@dataclasses.dataclass(frozen=True)
class Positions:
    """Some cells of each sample's flattened grid `[B, h w ...]`; in all the same of the f^2 subpixels, row by row."""

    cells: Packing
    subpixels: Int[Tensor, " p"]

    @classmethod
    def everywhere(cls, mask: Bool[Tensor, "b h w *ts"], factor: int) -> "Positions":
        """All subpixels of all cells of a grid, whether or not a mask covers them."""
        return cls(everything(len(mask), mask[0].numel(), mask.device), torch.arange(factor**2, device=mask.device))


@dataclasses.dataclass(frozen=True)
class FineTokens:
    """Tokens at fine positions, factored: `[B, n, p]` of them, n cells of each sample and p subpixels in each cell.

    Only coarse tokens under the mask are interpolated, `U(P m) / U(m)`: hidden tokens do not bleed into visible ones.
    Values in cells outside the mask are meaningless. Raises ValueError for detail without basis, or the reverse.
    """

    grid: TokenGrid
    factor: int  # fine tokens per coarse token along each side
    positions: Positions
    detail: Float[Tensor, "b n p r"] | None = None
    basis: Float[Tensor, "r d"] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if (self.detail is None) != (self.basis is None):
            raise ValueError("FineTokens: detail and basis come together; give both or neither")

    def cell_tokens(self) -> Float[Tensor, "b n d"]:
        """The coarse tokens of the positions' cells, zeros outside the mask."""
        return self.positions.cells.gather(self.grid.masked().flatten(1, -2))

    def _plus_detail(self, interpolated: Tensor, of_detail: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if self.detail is None or self.basis is None:
            return interpolated
        return interpolated + of_detail(self.detail, self.basis)

    def float(self) -> "FineTokens":
        """The same tokens in float32 (float64 stays), for losses under autocast."""
        grid = TokenGrid(_widened(self.grid.tokens), self.grid.mask)
        detail, basis = (None if x is None else _widened(x) for x in (self.detail, self.basis))
        return dataclasses.replace(self, grid=grid, detail=detail, basis=basis)

    def transform(self, weight: Float[Tensor, "d k"], bias: Float[Tensor, " k"] | None = None) -> "FineTokens":
        """Every fine token through a linear map. The bias stays: the interpolation weights add up to 1."""
        tokens = F.linear(self.grid.tokens, weight.mT, bias)
        basis = None if self.basis is None else self.basis @ weight
        return dataclasses.replace(self, grid=TokenGrid(tokens, self.grid.mask), basis=basis)

    @profiled(UPSAMPLER)
    def project(self, weight: Float[Tensor, "d k"]) -> Float[Tensor, "b n p k"]:
        """`fine W` without the fine tokens: `U (P W) + G (V W)`."""
        interpolated = self._weights @ (self._neighbours @ weight)
        return self._plus_detail(interpolated, lambda detail, basis: detail @ (basis @ weight))

    @profiled(UPSAMPLER)
    def squared_norm(self) -> Float[Tensor, "b n p"]:
        """`|fine|^2`, from the products of the coarse tokens around a cell with each other: `w^T (P P^T) w`."""
        neighbours, weights = self._neighbours, self._weights
        squares = self._plus_detail(
            ((weights @ (neighbours @ neighbours.mT)) * weights).sum(-1),
            lambda detail, basis: (
                (2 * (weights @ (neighbours @ basis.mT)) + detail @ (basis @ basis.mT)) * detail
            ).sum(-1),
        )
        return squares.clamp(min=0)

    @profiled(UPSAMPLER)
    def dense(self) -> Float[Tensor, "b n p d"]:
        """The fine tokens themselves: f^2 times the memory of the coarse ones."""
        return self._plus_detail(self._weights @ self._neighbours, torch.matmul)

    @profiled(UPSAMPLER)
    def pooled_sum(self, mask: Bool[Tensor, "b n p"]) -> Float[Tensor, "b d"]:
        """The sum of the fine tokens under a mask, per sample, by U transposed: one number per coarse cell."""
        tokens = self.grid.masked().flatten(1, -2)
        share = torch.einsum("bnpa,bnp->bna", self._weights, mask.to(tokens.dtype)).flatten(1)
        per_cell = torch.zeros_like(tokens[..., 0]).scatter_add(1, self._neighbouring_cells.flatten(1), share)
        return torch.einsum("bnd,bn->bd", tokens, per_cell) + self.detail_sum(mask)

    def interpolated_sum(self, positions: Positions, mask: Bool[Tensor, "b n p"]) -> Float[Tensor, "b d"]:
        """`pooled_sum` of what is interpolated alone, at any positions of the grid."""
        return dataclasses.replace(self, positions=positions, detail=None, basis=None).pooled_sum(mask)

    @profiled(UPSAMPLER)
    def detail_sum(self, mask: Bool[Tensor, "b n p"]) -> Float[Tensor, "b d"]:
        """`pooled_sum` of the detail alone; zeros if there is none."""
        nothing = self.grid.tokens.new_zeros(len(mask), self.grid.tokens.shape[-1])
        return self._plus_detail(
            nothing, lambda detail, basis: torch.where(mask[..., None], detail, 0).flatten(1, 2).sum(1) @ basis
        )

    @profiled(UPSAMPLER)
    def cell_means(self, share: Float[Tensor, "b n p"]) -> "DenseTokens":
        """One token per cell: the sum of its fine tokens, each times its share."""

        def mean(weights: Tensor, values: Tensor) -> Tensor:
            return torch.einsum("bnpa,bnp->bna", weights, share)[:, :, None] @ values

        return DenseTokens(self._plus_detail(mean(self._weights, self._neighbours), mean))

    @profiled(UPSAMPLER)
    def location_sums(self, mask: Bool[Tensor, "b n p"], locations: int) -> Float[Tensor, "b locations p d"]:
        """The sum over timesteps and band sets of the fine tokens under a mask, for positions everywhere."""
        weights = (self._weights * mask[..., None]).unflatten(1, (locations, -1))
        neighbours = self._neighbours.unflatten(1, (locations, -1))

        def of_detail(detail: Tensor, basis: Tensor) -> Tensor:
            return torch.where(mask[..., None], detail, 0).unflatten(1, (locations, -1)).sum(2) @ basis

        return self._plus_detail(torch.einsum("bntpa,bntad->bnpd", weights, neighbours), of_detail)

    @functools.cached_property
    def _neighbouring_cells(self) -> Int[Tensor, "b n neighbours"]:
        h, w, *rest = self.grid.mask.shape[1:]
        aside = cells_aside(self.interpolation, self.factor)
        cells = neighbouring_cells((h, w), torch.Size(rest).numel(), aside, self.grid.mask.device)
        index = self.positions.cells.index
        return cells.index_select(0, index.flatten()).reshape(*index.shape, -1)

    @functools.cached_property
    def _neighbours(self) -> Float[Tensor, "b n neighbours d"]:
        """The coarse tokens around each cell, zeros where there is none."""
        return take_rows(self.grid.masked().flatten(1, -2), self._neighbouring_cells)

    @functools.cached_property
    def _weights(self) -> Float[Tensor, "b n p neighbours"]:
        """The weight of each neighbour at each subpixel: `U(. m) / U(m)`."""
        tokens = self.grid.tokens
        visible_mask = take_rows(self.grid.mask.flatten(1), self._neighbouring_cells)
        weights = interpolation_weights(self.interpolation, self.factor, tokens.dtype, tokens.device)
        weights = weights.index_select(0, self.positions.subpixels)
        masked = weights * visible_mask[:, :, None, :]
        return masked / masked.sum(-1, keepdim=True).clamp(min=SMALLEST_WEIGHT)


@dataclasses.dataclass(frozen=True)
class DenseTokens:
    """Unfactored tokens, `[B, n, p, D]`, with the operations of `FineTokens`: all of it is detail."""

    tokens: Float[Tensor, "b n p d"]

    def float(self) -> "DenseTokens":
        return DenseTokens(_widened(self.tokens))

    def transform(self, weight: Float[Tensor, "d k"], bias: Float[Tensor, " k"] | None = None) -> "DenseTokens":
        return DenseTokens(F.linear(self.tokens, weight.mT, bias))

    @profiled(UPSAMPLER)
    def project(self, weight: Float[Tensor, "d k"]) -> Float[Tensor, "b n p k"]:
        return self.tokens @ weight

    def squared_norm(self) -> Float[Tensor, "b n p"]:
        return self.tokens.square().sum(-1)

    def dense(self) -> Float[Tensor, "b n p d"]:
        return self.tokens

    @profiled(UPSAMPLER)
    def cell_means(self, share: Float[Tensor, "b n p"]) -> "DenseTokens":
        return DenseTokens(share[:, :, None] @ self.tokens)

    def pooled_sum(self, mask: Bool[Tensor, "b n p"]) -> Float[Tensor, "b d"]:
        return self._masked(mask).flatten(1, 2).sum(1)

    def interpolated_sum(self, positions: Positions, mask: Bool[Tensor, "b n p"]) -> Float[Tensor, "b d"]:
        return self.tokens.new_zeros(len(self.tokens), self.tokens.shape[-1])

    def detail_sum(self, mask: Bool[Tensor, "b n p"]) -> Float[Tensor, "b d"]:
        return self.pooled_sum(mask)

    def location_sums(self, mask: Bool[Tensor, "b n p"], locations: int) -> Float[Tensor, "b locations p d"]:
        return self._masked(mask).unflatten(1, (locations, -1)).sum(2)

    def _masked(self, mask: Bool[Tensor, "b n p"]) -> Float[Tensor, "b n p d"]:
        return torch.where(mask[..., None], self.tokens, 0)


Tokens = FineTokens | DenseTokens


@dataclasses.dataclass(frozen=True)
class FineGrid:
    """Fine tokens at all subpixels of all cells of a grid; those of cells outside the mask are meaningless."""

    tokens: Tokens
    mask: Bool[Tensor, "b h w t s"]
    factor: int

    @property
    def fine_mask(self) -> Bool[Tensor, "b n p"]:
        return self.mask.flatten(1)[..., None].expand(-1, -1, self.factor**2)

    def float(self) -> "FineGrid":
        """The same tokens in float32 (float64 stays), for heads under autocast."""
        return dataclasses.replace(self, tokens=self.tokens.float())

    def transform(self, weight: Float[Tensor, "d k"], bias: Float[Tensor, " k"]) -> "FineGrid":
        """Every fine token through a linear map."""
        return dataclasses.replace(self, tokens=self.tokens.transform(weight, bias))

    def summed_images(self) -> Float[Tensor, "b fh fw d"]:
        """The sum over timesteps and band sets of the tokens under the mask."""
        h, w = self.mask.shape[1:3]
        return images(self.tokens.location_sums(self.fine_mask, h * w), (h, w), self.factor)

    def stacked_images(self) -> Float[Tensor, "b fh fw tsd"]:
        """The tokens of all timesteps and band sets, one after the other, zeros outside the mask."""
        h, w = self.mask.shape[1:3]
        dense = torch.where(self.fine_mask[..., None], self.tokens.dense(), 0)
        cells = dense.unflatten(1, (h * w, -1)).transpose(2, 3).flatten(3)
        return images(cells, (h, w), self.factor)


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def images(
    values: Float[Tensor, "b hw subpixels *d"], grid: tuple[int, int], factor: int
) -> Float[Tensor, "b fh fw *d"]:
    """Values of all subpixels of all cells of a grid `[h, w]`, laid out as images."""
    return rearrange(values, "b (h w) (i j) ... -> b (h i) (w j) ...", h=grid[0], i=factor)


def as_sequence(grids: Mapping[str, Shaped[Tensor, "b _ _ _ _ *d"]]) -> Shaped[Tensor, "b n *d"]:
    """`[B, h, w, T, S, ...]` of every modality → `[B, N, ...]`, one modality after the other."""
    return torch.cat([grid.flatten(1, 4) for grid in grids.values()], dim=1)
