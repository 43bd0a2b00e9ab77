"""What an encoder says of a token's place in the window, whatever is there."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hybrid_patch.config.modality import Modality
from hybrid_patch.model.tokens import TokenGrid


class PositionMeans(nn.Module):
    """Takes off the mean token of each place in a window, but for the mean over the window.

    Position encodings leave a pattern in an encoder's tokens that is the same in all windows: three quarters of the
    variance of Galileo nano's tokens at patch size 1, and half or more at patch size 8. It would show in maps as a
    grid of windows, and hides what tokens say of the ground. The means are fitted once, on the first crops of a
    training, and saved in checkpoints; they are right as long as the encoder stays as it is. `windows` are the patch
    sizes and the sides, in patches, that can be centred; others stay as they are, and so do all before the fit.
    """

    def __init__(self, modalities: Mapping[str, Modality], width: int, windows: Iterable[tuple[int, int]]) -> None:
        super().__init__()
        self.windows = set(windows)
        for name, modality in modalities.items():
            for patch_size, side in self.windows if not modality.decode_only else ():
                shape = (side, side, 1, len(modality.band_sets), width)
                self.register_buffer(_key(name, patch_size, side), torch.zeros(shape))

    def forward(self, grids: Mapping[str, TokenGrid], patch_size: int) -> dict[str, TokenGrid]:
        """Tokens without the means of their places."""
        centred = {}
        for name, grid in grids.items():
            h, w = grid.tokens.shape[1:3]
            fits = h == w and (patch_size, h) in self.windows
            means = self.get_buffer(_key(name, patch_size, h)) if fits else None
            centred[name] = grid if means is None else TokenGrid(grid.tokens - means, grid.mask)
        return centred

    @property
    def is_fitted(self) -> bool:
        """Whether any mean is not zero: fitted here, or loaded."""
        return any(bool(means.any()) for means in self.buffers())

    @torch.no_grad()
    def fit(
        self, grids: Iterable[Mapping[str, TokenGrid]], patch_size: int, middle: Mapping[str, Float[Tensor, " d"]]
    ) -> None:
        """Fit the means to the tokens of many windows of one size.

        `middle` has the mean that tokens of a modality shall have, such as a teacher's; by default they keep theirs.
        """
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        for each in grids:
            for name, grid in each.items():
                key = _key(name, patch_size, grid.tokens.shape[1])
                total = grid.masked().double().sum((0, 3), keepdim=True)[0]
                count = grid.mask.sum((0, 3), keepdim=True)[0, ..., None]
                before = sums.get(key, (torch.zeros_like(total), torch.zeros_like(count)))
                sums[key] = (before[0] + total, before[1] + count)
        for key, (total, count) in sums.items():
            means, mask = total / count.clamp(min=1), count[..., 0] > 0
            off = pattern(means, mask)
            name = key.rpartition("_ps")[0]
            if name in middle:
                off = torch.where(mask[..., None], means - middle[name], 0)
            self.get_buffer(key).copy_(off)


def _key(name: str, patch_size: int, side: int) -> str:
    return f"{name}_ps{patch_size}_{side}"


def pattern(means: Float[Tensor, "h w t s d"], mask: Bool[Tensor, "h w t s"]) -> Float[Tensor, "h w t s d"]:
    """The mean tokens of places less their mean; zeros where there is none."""
    weight = mask[..., None].to(means.dtype)
    middle = (means * weight).sum((0, 1), keepdim=True) / weight.sum((0, 1), keepdim=True).clamp(min=1)
    return (means - middle) * weight
