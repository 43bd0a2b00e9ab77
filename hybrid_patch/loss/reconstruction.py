"""Reconstruction of pixels from predicted tokens, as in masked autoencoders."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hybrid_patch.loss.queries import Cells, Queries
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.loss.term import LossSetting, PerSampleTerm
from hybrid_patch.model.tokens import Tokens


class Reconstruction(PerSampleTerm):
    """Pixels from the decoder's predictions, by a linear head for each modality and output patch size."""

    name, source = "reconstruct", "decoder"

    def __init__(self, setting: LossSetting) -> None:
        super().__init__()
        self.modalities, self.heads = setting.modalities, nn.ModuleDict()
        for name, modality in setting.modalities.items():
            for ps in setting.patch_sizes:
                self.heads[_head(name, ps)] = nn.Linear(setting.widths[self.source], modality.channels * ps**2)

    def of_modality(self, fine: Tokens, cells: Cells, targets: RandomTargets) -> Float[Tensor, " bv"]:
        head = self.heads[_head(cells.name, cells.patch_size)]
        assert isinstance(head, nn.Linear)
        band_set = cells.queries.cells.index % len(self.modalities[cells.name].band_sets)
        band_mask = targets.columns(cells.name, cells.patch_size)[:, : cells.pixels.shape[-1]][band_set]
        predicted = cells.compared(fine.float().transform(head.weight.mT, head.bias))
        return reconstruction(predicted, cells.pixels, band_mask, cells.loss_mask, cells.queries)


def reconstruction(
    predictions: Tokens,
    pixels: Float[Tensor, "b n subpixels m"],
    band_mask: Bool[Tensor, "b r m"],
    loss_mask: Bool[Tensor, "b n subpixels"],
    queries: Queries,
) -> Float[Tensor, " b"]:
    """Mean squared error of a modality's pixels per sample (He et al. 2022, "Masked Autoencoders", without their norm).

    Predictions are at the queries; of the pixels' numbers those of the token's own band set count (`band_mask`).
    """
    numbers = band_mask[:, :, None]
    errors = (predictions.dense() - queries.of(pixels)).square()
    return queries.mean(torch.where(numbers, errors, 0).sum(-1) / numbers.sum(-1), loss_mask)


def _head(name: str, patch_size: int) -> str:
    return f"{name}_ps{patch_size}"
