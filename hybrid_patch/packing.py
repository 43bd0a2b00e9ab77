"""Some of the tokens of a sequence, gathered to its front, and put back."""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which tokens of `[B, N]` are kept. Samples that keep fewer than the most are padded.

    Attributes:
        index: `[B, n]` positions of the kept tokens, in order; a padded place points to a token that is not kept.
        keep: `[B, n]`, False at padded places; None if there are none.
        length: N.
    """

    index: Int[Tensor, "b n"]
    keep: Bool[Tensor, "b n"] | None
    length: int

    def gather(self, values: Float[Tensor, "b all d"]) -> Float[Tensor, "b n d"]:
        """The kept tokens, `[B, n, D]`; padded places hold tokens that mean nothing."""
        return values.gather(1, self.index[..., None].expand(-1, -1, values.shape[-1]))

    def scatter(self, values: Float[Tensor, "b n d"]) -> Float[Tensor, "b all d"]:
        """Back to their places, `[B, N, D]`, with zeros elsewhere."""
        if self.keep is not None:
            values = torch.where(self.keep[..., None], values, 0)
        empty = values.new_zeros(len(values), self.length, values.shape[-1])
        return empty.scatter(1, self.index[..., None].expand_as(values), values)

    def valid(self) -> Bool[Tensor, "b n"]:
        """`keep`, written out."""
        return torch.ones_like(self.index, dtype=torch.bool) if self.keep is None else self.keep


def pack(mask: Bool[Tensor, "b all"]) -> Packing:
    """Keep the tokens where `mask` is True.

    There is always at least one place, a padded one if no token is kept at all: attention kernels do not take empty
    sequences, and parameters keep their (zero) gradients.
    """
    counts = mask.sum(1)
    fewest, most = int(counts.min()), max(int(counts.max()), 1)
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    keep = None if fewest == most else torch.arange(most, device=mask.device) < counts[:, None]
    return Packing(index, keep, mask.shape[1])
