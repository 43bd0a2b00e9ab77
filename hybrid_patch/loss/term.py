"""The contract of a term of the loss, and what a microbatch must know of its batch."""

import abc
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config.loss_options import Loss
from hybrid_patch.config.modality import Modality
from hybrid_patch.loss.all_gather import world_size
from hybrid_patch.loss.queries import Cells
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.model.tokens import Tokens

Source = Literal["encoder", "decoder"]


class ContextKeys(NamedTuple):
    """The context of some pixels, or output patches, of one modality: the same subpixels in all coarse cells.

    Attributes:
        positives: of the microbatch's samples, unit length; and `positive_mask`, which are valid.
        subpixels: their numbers in a cell.
        vectors: those of the samples of all processes, with their `mask`.
        weight: how many of the batch's valid pixels each valid key other than a query's own represents.
        strata: the step's random numbers, for queries to be drawn by.
    """

    positives: Float[Tensor, "b hw p k"]
    positive_mask: Bool[Tensor, "b hw p"]
    subpixels: Int[Tensor, " p"]
    vectors: Float[Tensor, "m k"]
    mask: Bool[Tensor, " m"]
    weight: Float[Tensor, ""]
    strata: Float[Tensor, " _"]

    def part(self, number: int, parts: int) -> "ContextKeys":
        """The same keys for one of several equal microbatches."""
        return self._replace(
            positives=self.positives.chunk(parts)[number], positive_mask=self.positive_mask.chunk(parts)[number]
        )


class MicrobatchContext(NamedTuple):
    """What a microbatch must know of its batch for its loss to be its share of the batch's.

    `counts` are those of `Objective.sample_counts`. `cached` has, by the name of a `CrossSampleTerm`, the microbatch's
    share of it and the gradient to the microbatch's vectors; it is empty if the batch is computed as a whole. `keys`
    are those of the context term, by modality.
    """

    counts: Mapping[Source, Float[Tensor, " modalities"]]
    cached: dict[str, tuple[Float[Tensor, ""], Float[Tensor, "bv d"]]]
    keys: Mapping[str, ContextKeys]

    def split(self, parts: int) -> "list[MicrobatchContext]":
        """The contexts of equal microbatches of the batch, with nothing cached yet."""
        keys = [{name: each.part(number, parts) for name, each in self.keys.items()} for number in range(parts)]
        return [MicrobatchContext(self.counts, {}, each) for each in keys]


@dataclasses.dataclass(frozen=True)
class LossSetting:
    """What terms are built from: `loss` has a field for each, by its name; patch sizes are those of the output."""

    loss: Loss
    modalities: Mapping[str, Modality]
    widths: Mapping[Source, int]
    patch_sizes: Collection[int]
    context_widths: Mapping[str, int]  # of the context targets, by modality; none without their term


class Term(nn.Module, abc.ABC):
    """One term of the loss, with its heads: computed modality by modality, then reduced, outside of autocast."""

    name: ClassVar[str]  # of its field in `loss_options.Loss`, and in the metrics
    source: ClassVar[Source]  # whose fine tokens it compares: what the encoder saw, or the decoder's predictions
    needs_all_positions: bool = False  # also where queries are drawn

    @abc.abstractmethod
    def of_modality(self, fine: Tokens, cells: Cells, targets: RandomTargets) -> Any:
        """What `reduce` takes of one modality; `fine` is at `cells.positions` (all needed: at `cells.everywhere`)."""

    @abc.abstractmethod
    def reduce(self, parts: Sequence[Any], context: MicrobatchContext) -> Float[Tensor, ""]:
        """The term, from the parts of all modalities; in a microbatch, its share of the batch's term."""


class PerSampleTerm(Term):
    """The mean over samples and views of their losses (0 without a valid output patch), then over the modalities."""

    def reduce(self, parts: Sequence[Float[Tensor, " bv"]], context: MicrobatchContext) -> Float[Tensor, ""]:
        return mean_of_modalities(parts, context.counts[self.source])


def mean_of_modalities(
    losses: Sequence[Float[Tensor, " bv"]], counts: Float[Tensor, " modalities"]
) -> Float[Tensor, ""]:
    """A process's share of the mean over modalities of their mean loss; `counts` are samples with a loss."""
    sums = torch.stack([loss.sum() for loss in losses])
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
