"""The contract of a term of the loss, and what a microbatch must know of its batch."""

import abc
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config.loss_options import Loss
from hybrid_patch.config.modality import Modality
from hybrid_patch.loss.all_gather import world_size
from hybrid_patch.loss.queries import Cells
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.model.tokens import Tokens

Source = Literal["encoder", "decoder"]


class MicrobatchContext(NamedTuple):
    """What a microbatch must know of its batch for its loss to be its share of the batch's.

    Attributes:
        counts: by source, how many samples and views of the batch have a loss there (`Objective.sample_counts`).
        cached: of each `CrossSampleTerm` by name, the microbatch's share of the term, and the gradient of the batch's
            term to the microbatch's vectors `[B V, D]`; empty if the batch is computed as a whole.
    """

    counts: Mapping[Source, Float[Tensor, " modalities"]]
    cached: dict[str, tuple[Float[Tensor, ""], Float[Tensor, "bv d"]]]


@dataclasses.dataclass(frozen=True)
class LossSetting:
    """What terms are built from: `loss` has a field for each, by its name; patch sizes are those of the output."""

    loss: Loss
    modalities: Mapping[str, Modality]
    widths: Mapping[Source, int]
    patch_sizes: Collection[int]


class Term(nn.Module, abc.ABC):
    """One term of the loss, with the heads that only it needs.

    A term is computed modality by modality (`of_modality`) and then reduced (`reduce`), outside of autocast. Subclasses
    are `PerSampleTerm` and `CrossSampleTerm`.

    Attributes:
        name: of its field in `loss_options.Loss`, and in the metrics.
        source: whose fine tokens it compares: those of what the encoder saw, or the decoder's predictions.
        needs_all_positions: whether it needs fine tokens at all positions, also where queries are drawn.
    """

    name: ClassVar[str]
    source: ClassVar[Source]
    needs_all_positions: bool = False

    @abc.abstractmethod
    def of_modality(self, fine: Tokens, cells: Cells, targets: RandomTargets) -> Any:
        """What `reduce` takes of one modality.

        Args:
            fine: tokens at `cells.positions`; at `cells.everywhere` if all positions are needed.
            targets: the frozen random projections of pixels.
        """

    @abc.abstractmethod
    def reduce(self, parts: Sequence[Any], context: MicrobatchContext) -> Float[Tensor, ""]:
        """The term, from the parts of all modalities; in a microbatch, its share of the batch's term."""


class PerSampleTerm(Term):
    """A term whose samples are independent: the mean over samples and views, then over the modalities that have any.

    Its parts are the losses of samples and views `[B V]`, an exact 0 where there is no valid output patch.
    """

    def reduce(self, parts: Sequence[Float[Tensor, " bv"]], context: MicrobatchContext) -> Float[Tensor, ""]:
        """The mean; an exact 0 if no modality has any."""
        sums, counts = torch.stack([loss.sum() for loss in parts]), context.counts[self.source]
        return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1) * world_size()


class CrossSampleTerm(Term):
    """A term that compares samples with each other, by one vector for each sample and view."""

    @abc.abstractmethod
    def vectors(self, parts: Sequence[Any]) -> Float[Tensor, "bv d"]:
        """The vectors, from the parts of all modalities."""

    @abc.abstractmethod
    def compare(self, vectors: Float[Tensor, "bv d"]) -> Float[Tensor, ""]:
        """The term of all samples."""

    def reduce(self, parts: Sequence[Any], context: MicrobatchContext) -> Float[Tensor, ""]:
        """The comparison; in a microbatch its share of the cached value, with the cached gradient."""
        vectors = self.vectors(parts)
        if self.name not in context.cached:
            return self.compare(vectors)
        value, gradient = context.cached[self.name]
        return value + ((vectors - vectors.detach()) * gradient).sum()  # what is added is 0, its gradient is not
