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
from hybrid_patch.loss.all_gather import global_sum, world_size
from hybrid_patch.loss.queries import Cells, PerSample
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.model.tokens import Tokens

Source = Literal["encoder", "decoder"]


class MicrobatchContext(NamedTuple):
    """What a microbatch must know of its batch for its loss to be its share of the batch's.

    Attributes:
        counts: by source, how many samples and views of the batch have a loss there: of each modality, over all
            processes.
        cached: of each `CrossSampleTerm` by name, the microbatch's share of the term, and the gradient of the batch's
            term to the microbatch's vectors `[B V, D]`.
    """

    counts: Mapping[Source, Float[Tensor, " modalities"]]
    cached: Mapping[str, tuple[Float[Tensor, ""], Float[Tensor, "bv d"]]]


@dataclasses.dataclass(frozen=True)
class LossSetting:
    """What terms are built from.

    Attributes:
        loss: the config of all terms; a term's own part of it has the term's name.
        modalities: by name.
        widths: of the tokens of either source.
        patch_sizes: the output patch sizes of the training.
    """

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
        needs_all_positions: whether it needs fine tokens at all positions, also where queries are drawn; only for the
            encoder's.
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
    def reduce(self, parts: Sequence[Any], context: MicrobatchContext | None) -> Float[Tensor, ""]:
        """The term, from the parts of all modalities; in a microbatch, its share of the batch's term."""


class PerSampleTerm(Term):
    """A term whose samples are independent: the mean over samples and views, then over the modalities that have any."""

    @abc.abstractmethod
    def of_modality(self, fine: Tokens, cells: Cells, targets: RandomTargets) -> PerSample:
        """The loss of each sample and view, and whether it has any."""

    def reduce(self, parts: Sequence[PerSample], context: MicrobatchContext | None) -> Float[Tensor, ""]:
        """The mean; an exact 0 if no modality has any."""
        sums = torch.stack([loss.sum() for loss, _ in parts])
        if context is None:
            counts = global_sum(torch.stack([is_any.sum() for _, is_any in parts]).to(sums.dtype))
        else:
            counts = context.counts[self.source]
        return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1) * world_size()


class CrossSampleTerm(Term):
    """A term that compares samples with each other, by one vector for each sample and view."""

    @abc.abstractmethod
    def vectors(self, parts: Sequence[Any]) -> Float[Tensor, "bv d"]:
        """The vectors, from the parts of all modalities."""

    @abc.abstractmethod
    def compare(self, vectors: Float[Tensor, "bv d"]) -> Float[Tensor, ""]:
        """The term of all samples."""

    def reduce(self, parts: Sequence[Any], context: MicrobatchContext | None) -> Float[Tensor, ""]:
        """The comparison; in a microbatch its share of the cached value, with the cached gradient."""
        vectors = self.vectors(parts)
        if context is None:
            return self.compare(vectors)
        value, gradient = context.cached[self.name]
        product = (vectors * gradient).sum()
        return value + product - product.detach()
