"""The options of the loss and its terms."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Aside, Count, NotNegative, Positive, Seed
from hybrid_patch.config.modality import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastiveTerm:
    """A contrastive term of the loss.

    Attributes:
        weight: of the term; 0 leaves it out.
        temperature: what similarities are divided by.
    """

    weight: NotNegative
    temperature: Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InstanceTerm(ContrastiveTerm):
    """The contrast between samples, of one vector for each: its fine tokens projected and pooled.

    Attributes:
        layers: number of layers of the projection, with ReLU between them.
        project: the pooled vector (`after_pooling`), or every fine token (`before_pooling`); with one layer it is the
            same, and with more the second makes fine tokens of full width.
    """

    layers: Count
    project: Literal["after_pooling", "before_pooling"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReconstructTerm:
    """Mean squared error of the hidden pixels' normalised values."""

    weight: NotNegative
    """Of the term; 0 leaves it out."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Loss:
    """The terms of the loss and their weights.

    Attributes:
        decoded: patch discrimination of the decoder's predictions for hidden tokens.
        visible: patch discrimination of the encoder's own tokens that were visible.
        instance: contrast between samples of the pooled tokens of two maskings.
        reconstruct: pixels from the decoder's predictions.
        patch_size: what is compared: tokens and targets at the output patch size (`output`), or their means over the
            cells of the coarse grid (`processing`).
        max_queries: tokens per sample, modality and view, at most, that are asked for their target, among all of the
            sample's targets (and for their pixels, by `reconstruct`), and whose details are pooled for `instance`;
            they are drawn anew in each step. null: all.
        merge_duplicates: whether pixels of continuous modalities with exactly equal targets are no negatives of each
            other, as pixels of one class of a map always are.
        target_seed: seed of the frozen random projection that makes the targets.
        centre_targets: whether the projected values have their mean taken off first.
        backend: what computes the similarities: `auto`, a kernel, or plain torch in chunks of rows.
        chunk: entries of the similarity matrix that plain torch computes at a time; null: what suits the device.
    """

    decoded: ContrastiveTerm
    visible: ContrastiveTerm
    instance: InstanceTerm
    reconstruct: ReconstructTerm
    patch_size: Literal["output", "processing"]
    max_queries: Count | None
    merge_duplicates: bool
    target_seed: Seed
    centre_targets: bool
    backend: Aside[Literal["auto", "flash_cpu", "efficient_cuda", "flex", "chunked", "reference"]]
    chunk: Aside[Count | None]
