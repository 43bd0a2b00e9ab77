"""The schema of `conf/`: one class for every option of every group.

Values and defaults live in the yaml files; here are their names, types, ranges and meaning. A field marked `Aside`
cannot change a result (a path, a number of workers, a device) and takes no part in the recipe (`recipe.py`); every
other field does.
"""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from hybrid_patch.config.data_options import DataOptions, data_sources
from hybrid_patch.config.field_types import Amount, Aside, BelowOne, Count, Fraction, NotNegative, Positive, Seed
from hybrid_patch.config.modality import STRICT


# --- patch ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Patch:
    """The side, in pixels, of the patches that the transformer sees, and of those that tokens stand for at the end."""

    processing_patch_size: Count
    output_patch_size: Count


# --- upsampler --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Bilinear:
    """Interpolation between the visible (or decoded) coarse tokens; nothing to learn."""

    name: Literal["bilinear"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subpixel:
    """A detail of low rank that each coarse token makes for every place in its cell, by sub-pixel convolution."""

    name: Literal["subpixel"]
    rank: Count
    """Numbers of the detail at a fine position."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Learned:
    """Transposed convolutions, one stage per prime factor of the ratio, each half as wide as the one before."""

    name: Literal["learned"]
    width: Count
    """Channels after the first stage."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Guided:
    """A detail of low rank made from the pixels that the encoder saw; the decoder's tokens are interpolated."""

    name: Literal["guided"]
    rank: Count
    """Numbers of the detail at a fine position, beside the spectrum there."""
    random_features: Annotated[int, Field(ge=0)]
    """Of the bands of a place, beside them in the detail."""
    pixel_dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of the pixels that it does not look at in training."""


Upsampler = Annotated[Bilinear | Guided | Learned | Subpixel, Field(discriminator="name")]


# --- decoder ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Decoder:
    """Where hidden tokens are predicted; the decoder's size is the model's.

    Attributes:
        patch_size: a query for each hidden token, whose prediction is upsampled (`processing`), or for each fine token
            (`output`). Either way it looks at the coarse tokens that were visible.
        upsampler: of the predictions; null: the encoder's `upsampler` (`bilinear` where that is `guided`: predictions
            are made of no pixels).
    """

    patch_size: Literal["processing", "output"]
    upsampler: Annotated[Bilinear | Learned | Subpixel, Field(discriminator="name")] | None


# --- curriculum -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stage:
    """A part of the training with its own patch sizes; `share` is its part of all steps, or its probability."""

    processing_patch_size: Count
    output_patch_size: Count
    share: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Curriculum:
    """The stages of a training; their shares add up to 1.

    Attributes:
        order: one stage after the other (`in_turn`), or each step draws its stage by its share (`mixed`).
        budget: what is level over the stages, for the sake of memory: crops of the same size for all (`pixels`), or
            smaller crops for smaller processing patches, of as many coarse tokens (`tokens`).
    """

    name: str
    order: Literal["in_turn", "mixed"]
    budget: Literal["pixels", "tokens"]
    stages: tuple[Stage, ...] = Field(min_length=1)


# --- model ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Transformer:
    """Size of a stack of transformer blocks."""

    width: Count
    depth: Count
    heads: Count
    mlp_ratio: Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """Sizes of the encoder and the decoder.

    `base_patch_size` is the side of the patch embedding's own kernel, which is resized to other patch sizes; null: the
    largest processing patch size of the curriculum.
    """

    name: str
    encoder: Transformer
    decoder: Transformer
    base_patch_size: Count | None


# --- data -------------------------------------------------------------------------------------------------------------
# Each source declares its own, in `hybrid_patch/data/<name>/__init__.py`.
if TYPE_CHECKING:
    Data = DataOptions
else:
    Data = Annotated[reduce(or_, data_sources()), Field(discriminator="name")]


# --- masking ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomMasking:
    """Tokens are hidden one by one, at random. What is neither encoded nor decoded takes no part."""

    name: Literal["random"]
    encode_ratio: Fraction
    decode_ratio: Fraction
    views: Count
    """Maskings of each sample in a step; the instance loss compares two."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModalityCrossRandomMasking:
    """Random masking, and besides each sample draws which of its (modality, band set) pairs are encoded and decoded."""

    name: Literal["modality_cross_random"]
    encode_ratio: Fraction
    decode_ratio: Fraction
    views: Count
    """Maskings of each sample in a step; the instance loss compares two."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SpaceMasking:
    """Places on the ground are hidden: with all their timesteps and band sets, in all modalities."""

    name: Literal["space"]
    encode_ratio: Fraction
    decode_ratio: Fraction
    views: Count
    """Maskings of each sample in a step; the instance loss compares two."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TimeMasking:
    """Timesteps are hidden: whole images of all modalities that have a series; the others' tokens one by one."""

    name: Literal["time"]
    encode_ratio: Fraction
    decode_ratio: Fraction
    views: Count
    """Maskings of each sample in a step; the instance loss compares two."""


Masking = Annotated[
    RandomMasking | SpaceMasking | TimeMasking | ModalityCrossRandomMasking, Field(discriminator="name")
]


# --- loss -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastiveTerm:
    """A contrastive term of the loss; weight 0 leaves it out."""

    weight: NotNegative
    temperature: Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InstanceTerm(ContrastiveTerm):
    """The contrast between samples, of one vector for each: its fine tokens projected and pooled.

    Attributes:
        layers: of the projection, with ReLU between them.
        project: the pooled vector (`after_pooling`), or every fine token (`before_pooling`); with one layer it is the
            same, and with more the second makes fine tokens of full width.
    """

    layers: Count
    project: Literal["after_pooling", "before_pooling"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReconstructTerm:
    """Mean squared error of the hidden pixels' normalised values; weight 0 leaves it out."""

    weight: NotNegative


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
        backend: what works out the similarities: `auto`, a kernel, or plain torch in chunks of rows.
        chunk: numbers of the similarity matrix that plain torch holds at once; null: what suits the device.
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


# --- optimizer, trainer -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """AdamW with a linear warm-up and a cosine down to `final_lr_ratio` of the peak."""

    name: Literal["adamw"]
    lr: Positive
    beta1: BelowOne
    beta2: BelowOne
    weight_decay: NotNegative
    warmup: Fraction
    """Share of the steps."""
    final_lr_ratio: Fraction
    clip_norm: Positive
    """Largest norm of the gradient."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Trainer:
    """How long, with how much, and when to save.

    Attributes:
        steps: optimizer steps.
        batch_size: samples per step, over all processes.
        max_bad_steps: so many steps in a row without a finite loss stop the run.
        checkpoint_every: steps between checkpoints; 0: only at the end and on a signal.
        keep_checkpoints: how many of the newest are kept.
    """

    steps: Count
    batch_size: Count
    max_bad_steps: Count
    checkpoint_every: Aside[Amount]
    keep_checkpoints: Aside[Count]


# --- evaluation -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """The look at a model's per-pixel embeddings, during training and at its end. It never changes the weights.

    Attributes:
        every: steps between evaluations; 0: only at the end.
        tiles: training and validation tiles that are embedded, at most so many of each; null: all; 0: no evaluation.
        train_pixels: pixels that the linear probe learns from, at most.
        knn_pixels: of these, those among which the nearest are looked for, drawn by class; 0: no kNN.
        seeds: how often training pixels are drawn.
        pooling: of a pixel's tokens, over modalities, timesteps and band sets: their mean, or all side by side.
        baselines: what is scored beside the embedding: `raw` bands, their `means` over 8 × 8 pixels, the `untrained`
            model, and the `oracle`, each 8 × 8 pixels' true majority.
        pictures: tiles that are drawn.
    """

    every: Aside[Amount]
    tiles: Aside[Amount | None]
    train_pixels: Aside[Count]
    knn_pixels: Aside[Amount]
    seeds: Aside[Count]
    pooling: Aside[Literal["mean", "concat"]]
    baselines: Aside[tuple[Literal["raw", "means", "untrained", "oracle"], ...]]
    pictures: Aside[Amount]


# --- runtime, logger --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Runtime:
    """Where and how a run is computed. Only the precision can change a result.

    Attributes:
        precision: of encoder, decoder and upsamplers; weights, targets and losses are always float32.
        device: `auto`, `cpu` or `cuda`.
        processes: processes (one per device) on each machine.
        nodes: machines; several are started by `python -m launch`.
        strategy: `single`, or with several processes `ddp` (each holds all weights) or `fsdp` (each holds a part).
        workers: processes that load data; 0: the training process itself.
        threads: CPU threads per process; null: torch's choice.
        accumulate: parts that a process works its samples out in, one after the other: the same gradients with less
            memory, and the encoder once more where there is an instance term.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
        compile_blocks: compile the transformer blocks with torch.compile (needs a C++ compiler, or a GPU with Triton).
    """

    name: Aside[str]
    precision: Literal["32-true", "bf16-mixed"]
    device: Aside[Literal["auto", "cpu", "cuda"]]
    processes: Aside[Count]
    nodes: Aside[Count]
    strategy: Aside[Literal["single", "ddp", "fsdp"]]
    workers: Aside[Amount]
    threads: Aside[Count | None]
    accumulate: Aside[Count]
    gradient_checkpointing: Aside[bool]
    compile_blocks: Aside[bool]

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.processes * self.nodes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Wandb:
    """Metrics are mirrored to Weights & Biases; `offline` needs neither network nor account (`wandb sync` later)."""

    name: Literal["wandb"]
    mode: Literal["offline", "online"]
    project: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoLogger:
    """Metrics go to metrics.jsonl alone."""

    name: Literal["none"]


Logger = Annotated[Wandb | NoLogger, Field(discriminator="name")]


# --- root -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """One run. `run_dir` null means `runs/<sweep_name>/<run id>`."""

    seed: Seed
    patch: Patch
    upsampler: Upsampler
    decoder: Decoder
    curriculum: Curriculum
    model: Model
    data: Data
    masking: Masking
    loss: Loss
    optimizer: Optimizer
    trainer: Trainer
    evaluation: Aside[Evaluation]
    runtime: Runtime
    logger: Aside[Logger]
    run_dir: Aside[str | None]
    sweep_name: Aside[str]
