"""Instance contrast: two maskings of one sample are closer to each other than to other samples."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.loss.all_gather import first_row, gather_rows
from hybrid_patch.loss.queries import Cells
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.loss.term import CrossSampleTerm, LossSetting
from hybrid_patch.model.tokens import Tokens


class ProjectAndAggregate(nn.Module):
    """One vector per sample: the mean of its fine tokens of all modalities, projected before pooling or after.

    A single layer is linear and commutes with the mean, so it comes after: that needs no fine tokens.
    """

    def __init__(self, width: int, layers: int, before_pooling: bool) -> None:
        super().__init__()
        self.before_pooling = before_pooling and layers > 1
        others = [module for _ in range(layers - 1) for module in (nn.ReLU(), nn.Linear(width, width))]
        self.projection = nn.Sequential(nn.Linear(width, width), *others)

    def forward(self, total: Float[Tensor, "b d"], count: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """From the sums over all modalities and the numbers of tokens; the mean of no token is zeros."""
        mean = total / count.clamp(min=1)[:, None]
        return mean if self.before_pooling else self.projection(mean)

    def total(self, fine: Tokens, mask: Bool[Tensor, "b n p"]) -> Float[Tensor, "b d"]:
        """The sum over the masked fine tokens, or over their projections if these come before pooling."""
        if not self.before_pooling:
            return fine.pooled_sum(mask)
        return torch.where(mask[..., None], self.projection(fine.dense()), 0).flatten(1, 2).sum(1)


class InstanceContrast(CrossSampleTerm):
    """InfoNCE between the pooled tokens of two views of a sample."""

    name, source = "instance", "encoder"

    def __init__(self, setting: LossSetting) -> None:
        super().__init__()
        config, width = setting.loss.instance, setting.widths[self.source]
        self.temperature = config.temperature
        self.aggregate = ProjectAndAggregate(width, config.layers, config.project == "before_pooling")
        self.needs_all_positions = self.aggregate.before_pooling

    def of_modality(
        self, fine: Tokens, cells: Cells, targets: RandomTargets
    ) -> tuple[Float[Tensor, "bv d"], Int[Tensor, " bv"]]:
        """The sum over the modality's valid fine tokens, or over their projections, and their number.

        Where queries are drawn, the sum of the details is estimated from these: details everywhere would cost too much.
        """
        fine, mask = fine.float(), cells.valid_mask
        if self.needs_all_positions or not cells.queries.drawn:
            total = self.aggregate.total(fine, mask)
        else:
            detail = fine.detail_sum(cells.at_positions(mask)) * cells.queries.weight[:, None]
            total = fine.interpolated_sum(cells.everywhere, mask) + detail
        return total, mask.flatten(1).sum(1)

    def vectors(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, "bv d"]:
        totals, counts = zip(*parts, strict=True)
        return self.aggregate(torch.stack(totals).sum(0), torch.stack(counts).sum(0))

    def compare(self, vectors: Float[Tensor, "bv d"]) -> Float[Tensor, ""]:
        first, second = vectors.unflatten(0, (-1, 2)).unbind(1)
        return instance_contrast(first, second, self.temperature)


def instance_contrast(
    first: Float[Tensor, "b d"], second: Float[Tensor, "b d"], temperature: float
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE (van den Oord et al. 2018) between two views; negatives are the samples of all processes."""
    a, b = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    label = torch.arange(len(a), device=a.device) + first_row(a)
    return (
        F.cross_entropy(a @ gather_rows(b).mT / temperature, label)
        + F.cross_entropy(b @ gather_rows(a).mT / temperature, label)
    ) / 2
