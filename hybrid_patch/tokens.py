"""Tokens on a grid, at the processing patch size (`TokenGrid`) and at the output patch size (`FineTokens`).

A fine token is an interpolation of coarse tokens plus, for learned upsamplers, a detail of low rank:

    fine = U P + G V        U: bilinear, fixed    P: coarse tokens, width D    G: detail, width r    V: basis [r, D]

`FineTokens` keeps the factors. Whatever is linear in a fine token commutes with U, so it is worked out on the coarse
grid and only its (narrow) result is interpolated: a D-wide tensor at the fine grid is made by `dense` alone.
"""

import dataclasses
import functools

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# The weight of the coarse cell that a fine position lies in is at least 1/4, so that this only guards the positions
# outside the mask, whose values nobody reads, against 0/0.
SMALLEST_WEIGHT = 1e-3


@dataclasses.dataclass(frozen=True)
class TokenGrid:
    """Tokens at the processing patch size.

    Attributes:
        tokens: `[B, h, w, ..., D]`, where `...` is nothing, T, or T and S.
        mask: `[B, h, w, ...]`, True where there is a token; elsewhere `tokens` is never read.
    """

    tokens: Float[Tensor, "b h w *ts d"]
    mask: Bool[Tensor, "b h w *ts"]


@functools.lru_cache(maxsize=256)
def interpolation(size: int, factor: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "fine coarse"]:
    """The bilinear map along one side, `[size * factor, size]`: pixel centres aligned, edges clamped.

    The same numbers as `F.interpolate(mode="bilinear", align_corners=False)`.
    """
    position = ((torch.arange(size * factor, dtype=torch.float64) + 0.5) / factor - 0.5).clamp(0, size - 1)
    low = position.floor().long().clamp(max=max(size - 2, 0))
    matrix = torch.zeros(size * factor, size, dtype=torch.float64)
    rows = torch.arange(size * factor)
    matrix[rows, low] += 1 - (position - low)
    matrix[rows, (low + 1).clamp(max=size - 1)] += position - low
    return matrix.to(device, dtype)


@functools.lru_cache(maxsize=256)
def _pair_weights(size: int, factor: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights of `|a_i|^2` (`[fine, size]`) and of `a_i a_(i+1)` (`[fine, size - 1]`) in `|sum_i u_i a_i|^2`."""
    weights = interpolation(size, factor, torch.float64, torch.device("cpu"))
    return (weights**2).to(device, dtype), (2 * weights[:, :-1] * weights[:, 1:]).to(device, dtype)


def spread(
    values: Float[Tensor, "b h w *rest"], rows: Float[Tensor, "fh h"], columns: Float[Tensor, "fw w"]
) -> Float[Tensor, "b fh fw *rest"]:
    """Apply one matrix along the rows of a grid and one along its columns."""
    b, h, w, *rest = values.shape
    values = (rows @ values.reshape(b, h, -1)).reshape(b * len(rows), w, -1)
    return (columns @ values).reshape(b, len(rows), len(columns), *rest)


def repeat_cells(values: Tensor, factor: int) -> Tensor:
    """`[B, h, w, ...]` → `[B, h f, w f, ...]` by nearest neighbour: whole numbers and masks stay what they are."""
    if factor == 1:
        return values
    return values.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


@dataclasses.dataclass(frozen=True)
class FineTokens:
    """Tokens at the output patch size, factored.

    The interpolation knows the mask: only coarse tokens under it take part, `U(P m) / U(m)`, so that hidden tokens do
    not bleed into visible ones. Outside the mask the values mean nothing.

    Attributes:
        coarse: P, `[B, h, w, ..., D]`; `...` is nothing, T, or T and S.
        mask: `[B, h, w, ...]`, True where there is a coarse token.
        factor: f, fine tokens per coarse token along each side.
        detail: G, `[B, h f, w f, ..., r]`, or None.
        basis: V, `[r, D]`, or None. Detail and basis come together: ValueError for one without the other.
    """

    coarse: Float[Tensor, "b h w *ts d"]
    mask: Bool[Tensor, "b h w *ts"]
    factor: int
    detail: Float[Tensor, "b fh fw *ts r"] | None = None
    basis: Float[Tensor, "r d"] | None = None

    def __post_init__(self) -> None:
        if (self.detail is None) != (self.basis is None):
            raise ValueError("FineTokens: detail and basis come together; give both or neither")

    @property
    def low_rank(self) -> tuple[Float[Tensor, "b fh fw *ts r"], Float[Tensor, "r d"]] | None:
        """Detail and basis, G and V, or None if there are none."""
        return None if self.detail is None or self.basis is None else (self.detail, self.basis)

    @property
    def fine_mask(self) -> Bool[Tensor, "b fh fw *ts"]:
        """The mask at the output patch size, by nearest neighbour."""
        return repeat_cells(self.mask, self.factor)

    def float(self) -> "FineTokens":
        """The same tokens in float32 (float64 stays), for losses under autocast."""

        def widen(x: Tensor) -> Tensor:
            return x if x.dtype == torch.float64 else x.float()

        detail, basis = (None, None) if self.low_rank is None else map(widen, self.low_rank)
        return dataclasses.replace(self, coarse=widen(self.coarse), detail=detail, basis=basis)

    def transform(self, weight: Float[Tensor, "d k"], bias: Float[Tensor, " k"] | None = None) -> "FineTokens":
        """Every fine token through a linear map, still factored, of width k.

        The bias needs no care: the interpolation weights of a fine token add up to 1.
        """
        coarse = self.coarse @ weight if bias is None else torch.addmm(bias, self.coarse.flatten(0, -2), weight)
        return dataclasses.replace(
            self,
            coarse=coarse.reshape(*self.coarse.shape[:-1], weight.shape[1]),
            basis=None if self.basis is None else self.basis @ weight,
        )

    def project(self, weight: Float[Tensor, "d k"]) -> Float[Tensor, "b fh fw *ts k"]:
        """`fine W` without the fine tokens: `U (P W) + G (V W)`."""
        return self.transform(weight).dense()

    def dense(self) -> Float[Tensor, "b fh fw *ts d"]:
        """The fine tokens themselves, D numbers each. Costs f^2 times the memory of the coarse ones."""
        fine = self._interpolated(self.coarse)
        if self.low_rank is None:
            return fine
        detail, basis = self.low_rank
        return fine + detail @ basis

    def squared_norm(self) -> Float[Tensor, "b fh fw *ts"]:
        """`|fine|^2`, `[B, h f, w f, ...]`, from the products of neighbouring coarse tokens.

        An interpolated token is a weighted sum of the four coarse tokens p, q (below p), r (right of p), s (right of
        q) around it; its squared norm holds their squares, and the products of neighbours: horizontal (pr, qs),
        vertical (pq, rs) and diagonal (ps + qr). Each of these maps is interpolated with its own weights.
        """
        p = self._masked(self.coarse)
        if self.factor == 1:
            norm = p.square().sum(-1)
        else:
            device, dtype = p.device, p.dtype
            row_squares, row_pairs = _pair_weights(p.shape[1], self.factor, dtype, device)
            column_squares, column_pairs = _pair_weights(p.shape[2], self.factor, dtype, device)
            vertical = (p[:, :-1] * p[:, 1:]).sum(-1)
            horizontal = (p[:, :, :-1] * p[:, :, 1:]).sum(-1)
            diagonal = (p[:, :-1, :-1] * p[:, 1:, 1:] + p[:, :-1, 1:] * p[:, 1:, :-1]).sum(-1) / 2
            norm = (
                spread(p.square().sum(-1), row_squares, column_squares)
                + spread(horizontal, row_squares, column_pairs)
                + spread(vertical, row_pairs, column_squares)
                + spread(diagonal, row_pairs, column_pairs)
            ) / self._weight().square()
        if self.low_rank is None:
            return norm.clamp(min=0)
        detail, basis = self.low_rank
        across = (self._interpolated(self.coarse @ basis.mT) * detail).sum(-1)
        within = ((detail @ (basis @ basis.mT)) * detail).sum(-1)
        return (norm + 2 * across + within).clamp(min=0)

    def pooled_sum(self, take: Bool[Tensor, "b fh fw *ts"]) -> Float[Tensor, "b d"]:
        """The sum of the fine tokens to take (none outside the mask), per sample: U transposed does the work."""
        share = take.to(self.coarse.dtype)
        if self.factor > 1:
            rows, columns = self._matrices()
            share = spread(share / self._weight(), rows.mT, columns.mT) * self.mask
        total = torch.einsum("bnd,bn->bd", self._masked(self.coarse).flatten(1, -2), share.flatten(1))
        if self.low_rank is None:
            return total
        detail, basis = self.low_rank
        return total + (detail * take[..., None]).flatten(1, -2).sum(1) @ basis

    def _masked(self, values: Tensor) -> Tensor:
        return torch.where(self.mask[..., None], values, 0)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        _, h, w = self.coarse.shape[:3]
        dtype, device = self.coarse.dtype, self.coarse.device
        return interpolation(h, self.factor, dtype, device), interpolation(w, self.factor, dtype, device)

    def _weight(self) -> Float[Tensor, "b fh fw *ts"]:
        """U(m), the share of each fine position's neighbours that are under the mask."""
        return spread(self.mask.to(self.coarse.dtype), *self._matrices()).clamp(min=SMALLEST_WEIGHT)

    def _interpolated(self, values: Float[Tensor, "b h w *ts k"]) -> Float[Tensor, "b fh fw *ts k"]:
        values = self._masked(values)
        if self.factor == 1:
            return values
        return spread(values, *self._matrices()) / self._weight()[..., None]
