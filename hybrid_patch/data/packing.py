import dataclasses

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which tokens of `[B, N]` are kept; samples with fewer kept tokens than others are padded."""

    index: Int[Tensor, "b n"]  # positions of the kept tokens, in order; padding points to a token that is not kept
    padding_mask: Bool[Tensor, "b n"] | None  # False at padding; None without padding
    length: int  # N

    def gather(self, values: Shaped[Tensor, "samples all *d"]) -> Shaped[Tensor, "b n *d"]:
        """The kept tokens, meaningless at padding; where `values` has fewer samples, each serves several views."""
        return take_rows(values, self.index)

    def scatter(self, values: Float[Tensor, "b n d"]) -> Float[Tensor, "b all d"]:
        """The kept tokens at their positions, zeros elsewhere."""
        if self.padding_mask is not None:
            values = torch.where(self.padding_mask[..., None], values, 0)
        b, _, d = values.shape
        rows = self.index + torch.arange(b, device=self.index.device)[:, None] * self.length
        return values.new_zeros(b * self.length, d).index_add(0, rows.flatten(), values.flatten(0, 1)).reshape(b, -1, d)

    def over(self, inner: int) -> "Packing":
        """The tokens' positions on a sequence without its innermost axis, of `inner` entries."""
        return self if inner == 1 else Packing(self.index // inner, self.padding_mask, self.length // inner)

    def valid(self) -> Bool[Tensor, "b n"]:
        return torch.ones_like(self.index, dtype=torch.bool) if self.padding_mask is None else self.padding_mask


def take_rows(values: Shaped[Tensor, "samples all *d"], index: Int[Tensor, "b *n"]) -> Shaped[Tensor, "b *nd"]:
    """`values[sample, index]`; sample `i` serves the `i`-th part of the batch.

    `index_select` of whole rows is several times faster than `gather` or indexing by tensors, backward above all.
    """
    samples, length = values.shape[:2]
    views = len(index) // samples
    start = (torch.arange(len(index), device=index.device) // views * length).reshape(-1, *[1] * (index.ndim - 1))
    rows = values.flatten(0, 1).index_select(0, (index + start).flatten())
    return rows.reshape(*index.shape, *values.shape[2:])


def pack(mask: Bool[Tensor, "b all"]) -> Packing:
    """Keep the tokens where `mask` is True; at least one position, if only padding, as kernels reject empty input."""
    counts = mask.sum(1)
    shortest, longest = int(counts.min()), max(int(counts.max()), 1)
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest].contiguous()
    padding_mask = None if shortest == longest else torch.arange(longest, device=mask.device) < counts[:, None]
    return Packing(index, padding_mask, mask.shape[1])


def everything(samples: int, length: int, device: torch.device) -> Packing:
    return Packing(torch.arange(length, device=device).expand(samples, length), None, length)
