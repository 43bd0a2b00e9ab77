"""The options of the loss and its terms."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Aside, Count, Depth, NotNegative, Positive
from hybrid_patch.config.modality import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastiveTerm:
    """A contrastive term of the loss."""

    weight: NotNegative
    """Of the term; 0 leaves it out."""
    temperature: Positive
    """What similarities are divided by."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InstanceTerm(ContrastiveTerm):
    """The contrast between samples, of one vector for each: its fine tokens projected and pooled."""

    layers: Depth
    """Number of layers of the projection, with ReLU between them."""
    project: Literal["after_pooling", "before_pooling"]
    """What is projected: the pooled vector (`after_pooling`), or each fine token at full width (`before_pooling`)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReconstructTerm:
    """Mean squared error of the hidden pixels' normalised values."""

    weight: NotNegative
    """Of the term; 0 leaves it out."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContextTerm(ContrastiveTerm):
    """The contrast of tokens with what is around the batch's pixels: local means and deviations, course over time."""

    max_queries: Count
    """Maximum tokens per sample, modality and view that are asked, of those that `loss.max_queries` draws."""
    max_keys: Count
    """About how many pixels of the batch they are asked among, of each modality; at least one of each coarse cell."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Loss:
    """The terms of the loss and their weights."""

    decoded: ContrastiveTerm
    """Patch discrimination of the decoder's predictions for hidden tokens."""
    visible: ContrastiveTerm
    """Patch discrimination of the encoder's own tokens that were visible."""
    instance: InstanceTerm
    """Contrast between samples of the pooled tokens of two maskings."""
    reconstruct: ReconstructTerm
    """Pixels from the decoder's predictions."""
    context: ContextTerm
    """What is around a pixel, from the encoder's own tokens."""
    target_patch_size: Literal["output", "processing", 1]
    """The patch size of the targets: that of the output, its means over coarse cells, of tokens too (`processing`), or
    single pixels (1), whose unit-length targets are averaged over a token's output patch."""
    max_queries: Count | None
    """Maximum tokens per sample, modality and view, drawn anew in each step, that are asked for their target among
    the sample's (and for pixels by `reconstruct`), and whose details are pooled for `instance`; null: all."""
    merge_duplicates: bool
    """Whether pixels with exactly equal targets are no negatives of each other, as those of maps always are."""
    backend: Aside[Literal["auto", "flash_cpu", "efficient_cuda", "flex", "chunked", "reference"]]
    """What computes the similarities: `auto`, a kernel, or plain torch in chunks of rows."""
    chunk: Aside[Count | None]
    """Entries of the similarity matrix that plain torch computes at a time; null: what suits the device."""
