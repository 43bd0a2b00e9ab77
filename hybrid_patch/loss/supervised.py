"""The loss of labels: what a head predicts for every pixel against its class or number."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.source import UNLABELLED
from hybrid_patch.loss.all_gather import global_sum, world_size
from hybrid_patch.loss.encoder_objective import EncoderObjective
from hybrid_patch.loss.forward_pass import ForwardPass
from hybrid_patch.loss.term import MicrobatchContext
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.tokens import FineGrid, Positions


class Supervised(EncoderObjective):
    """The loss of `target=labels`: its mean over the labelled pixels of a batch, in all processes.

    Of classes it is the cross-entropy, of numbers the squared error in standard deviations of the labels. The head is
    part of the model.
    """

    def __init__(self, config: Config, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        self.modalities = dict(modalities)

    def batch_context(self, batch: Batch, sizes: PatchSizes) -> MicrobatchContext:
        """What all microbatches of a batch must know of it: how many labelled pixels there are."""
        count = global_sum(labelled_mask(_labels(batch)).sum().float())
        return MicrobatchContext({"encoder": count[None]}, {}, {})

    def forward(self, passed: ForwardPass, context: MicrobatchContext | None = None) -> dict[str, Float[Tensor, ""]]:
        """The term by its name, and `loss`, the same; in a microbatch, its share of it."""
        batch, head = passed.batch, passed.model.head
        assert head is not None
        encoded = {name: batch.masks[name] == Mask.ENCODE for name in batch.encoded.each}
        everywhere = {name: Positions.everywhere(mask, passed.sizes.factor) for name, mask in encoded.items()}
        tokens = passed.tokens("encoder", everywhere)
        with passed.full_precision():
            context = context or self.batch_context(batch, passed.sizes)
            grids = [FineGrid(tokens[name].float(), mask, passed.sizes.factor) for name, mask in encoded.items()]
            outputs, labels = repeat_cells(head(grids), passed.sizes.output), _labels(batch)
            if head.classes:
                name, losses = (
                    "cross_entropy",
                    F.cross_entropy(outputs.movedim(-1, 1), labels, ignore_index=UNLABELLED, reduction="none"),
                )
            else:
                standardised = (labels - head.label_mean) / head.label_scale
                error = outputs[..., 0] - standardised
                name, losses = "squared_error", torch.where(labelled_mask(labels), error, 0).square()
            loss = losses.sum() / context.counts["encoder"][0].clamp(min=1) * world_size()
        return {"loss": loss, name: loss}


def labelled_mask(labels: Int[Tensor, "*n"] | Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """Where there is a label."""
    return labels.isfinite() if labels.is_floating_point() else labels != UNLABELLED


def _labels(batch: Batch) -> Tensor:
    assert batch.labels is not None
    return batch.labels
