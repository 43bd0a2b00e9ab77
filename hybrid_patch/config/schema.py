"""The schema of `conf/`: one class for every option of every group.

Values and defaults live in the yaml files; here are names, types, ranges and meaning. Only a field marked `Aside`,
which cannot change a result (a path, a device), takes no part in the recipe (`recipe.py`).
"""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from hybrid_patch.config.architecture import Architecture
from hybrid_patch.config.continue_options import ContinueFrom
from hybrid_patch.config.data_options import DataOptions, data_sources
from hybrid_patch.config.field_types import (
    PROCESSORS,
    Amount,
    Aside,
    BelowOne,
    Count,
    Depth,
    FolderPath,
    Fraction,
    Name,
    NotNegative,
    PerMachine,
    Positive,
    Seed,
    Width,
)
from hybrid_patch.config.head_options import Head
from hybrid_patch.config.loss_options import Loss
from hybrid_patch.config.masking_options import Masking
from hybrid_patch.config.modality import KEYWORDS, STRICT
from hybrid_patch.config.target_options import Target
from hybrid_patch.config.upsamplers import Upsampler


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Patch:
    """Patch sizes."""

    processing_patch_size: Count
    """Side, in pixels, of the patches that the transformer sees."""
    output_patch_size: Count
    """Side, in pixels, of the patches that the output tokens represent."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Decoder:
    """Where hidden tokens are predicted; the decoder's size is the model's."""

    patch_size: Literal["processing", "output"]
    """One query per hidden token, whose prediction is upsampled (`processing`), or one per fine token (`output`)."""
    upsampler: Upsampler | None
    """Of the predictions; null: the encoder's `upsampler`, or `bilinear` if that needs pixels."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stage:
    """A part of the training with its own patch sizes; `share` is its part of all steps, or its probability."""

    processing_patch_size: Count
    output_patch_size: Count
    share: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Curriculum:
    """The stages of a training; their shares add up to 1."""

    name: Name
    order: Literal["in_turn", "mixed"]
    """One stage after the other (`in_turn`), or each step draws its stage by its share (`mixed`)."""
    budget: Literal["pixels", "tokens"]
    """What all stages have in common, to level memory: the size of crops (`pixels`), or their number of coarse tokens,
    with smaller crops for smaller patches (`tokens`)."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """A list of {processing_patch_size, output_patch_size, share}."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Transformer:
    """Size of a stack of transformer blocks, and how it is regularised."""

    width: Width
    """Of its tokens."""
    depth: Depth
    """Number of blocks."""
    heads: Count
    """Attention heads of a block; they divide the width."""
    mlp_ratio: Positive
    """Width of a block's hidden layer, relative to that of the tokens."""
    drop_path: BelowOne
    """Probability that a training step leaves out a residual branch (attention or MLP) of a block, per sample and view
    (stochastic depth); the others are scaled up."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """The encoder's architecture, and the sizes of encoder and decoder."""

    name: Name
    architecture: Architecture
    """Of the encoder: `flexivit`, our own, or that of a released one: `galileo`, or a version of `olmoearth`."""
    encoder: Transformer
    decoder: Transformer
    base_patch_size: Count | None
    """Side of the patch embedding's kernel, resized to other patch sizes; null: the curriculum's largest."""
    pixel_hidden_width: Width | None
    """Width of a hidden layer that each pixel's bands go through before its patch is embedded; null: none."""
    patch_statistics: bool
    """Whether the mean and the deviation of each band in a patch are embedded beside its pixels."""
    whiten_bands: bool
    """Whether the bands of each band set are whitened halfway."""
    centre_positions: bool
    """Whether the mean token of each place in a window is taken off: what a frozen encoder says of the place alone."""


Part = Literal["encoder", "upsampler", "decoder"]
"""Of a model; `whitening` goes with the encoder, and both upsamplers are one part."""


@dataclass(frozen=True, kw_only=True, config=KEYWORDS)
class Init:
    """What weights a training begins with, and which parts it leaves as they are."""

    from_: Aside[FolderPath | None]
    """A run, an exported model (also `hf://owner/name`), or a folder of released weights; null: random weights. The
    recipe has the hash of the weights."""
    parts: tuple[Part, ...] | None
    """Parts that are taken from there; null: all that it has."""
    freeze: tuple[Part, ...]
    """Parts that are not trained."""


# Each source declares its own, in `hybrid_patch/data/<name>/__init__.py`.
if TYPE_CHECKING:
    Data = DataOptions
else:
    Data = Annotated[reduce(or_, data_sources()), Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """AdamW with a linear warm-up and a cosine decay."""

    name: Literal["adamw"]
    lr: Positive
    """The peak learning rate."""
    beta1: BelowOne
    """Decay of the mean of gradients."""
    beta2: BelowOne
    """Decay of the mean of their squares."""
    weight_decay: NotNegative
    """Decoupled weight decay, relative to the learning rate."""
    warmup: Fraction
    """Fraction of the steps over which the learning rate rises."""
    final_lr_ratio: Fraction
    """The last learning rate, relative to the peak."""
    clip_norm: Positive
    """The gradient's norm is clipped to this."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Trainer:
    """How long, with how much, and when to save."""

    steps: Count
    """Optimizer steps."""
    batch_size: Count
    """Samples per step, over all processes."""
    max_bad_steps: Count
    """Steps in a row without a finite loss after which the run stops."""
    checkpoint_every: Aside[Amount]
    """Steps between checkpoints; 0: only at the end and on a signal."""
    keep_checkpoints: Aside[Count]
    """Number of the newest checkpoints that are kept."""
    log_every: Aside[Count]
    """Steps per line of the metrics, which has their means; between lines nothing waits for the device."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """The evaluation of per-pixel embeddings during training and at its end. It never changes the weights."""

    every: Aside[Amount]
    """Steps between evaluations; 0: only at the end."""
    tiles: Aside[Amount | None]
    """Training and validation tiles that are embedded, at most this many of each; null: all; 0: no evaluation."""
    train_pixels: Aside[Count]
    """Maximum number of pixels that the linear probe learns from."""
    knn_pixels: Aside[Amount]
    """Of these, the neighbours of the kNN classifier, drawn by class; 0: no kNN."""
    few_labels: Aside[tuple[Count, ...]]
    """Of these, labelled pixels of each class: both classifiers are scored with as few as each of these numbers too."""
    scored_pixels: Aside[Count]
    """Maximum number of pixels of a validation tile that kNN, and classifiers with few labels, are scored on; drawn
    anew for each seed. The linear probe is scored on all."""
    seeds: Aside[Annotated[int, Field(ge=1, le=1000)]]
    """How often training pixels, and scored pixels, are drawn."""
    pooling: Aside[Literal["mean", "concat"]]
    """How a pixel's tokens are pooled over modalities, timesteps and band sets: their mean, or concatenated."""
    baselines: Aside[tuple[Literal["raw", "random", "surroundings", "means", "untrained", "oracle"], ...]]
    """What is scored beside the embedding: `raw` bands, 64 and 256 `random` features of these, the pixel with local
    means and deviations of its `surroundings`, the raw bands' `means` over 8 × 8 pixels, the `untrained` model, and the
    `oracle`, each 8 × 8 pixels' true majority."""
    map_tiles: Aside[Amount | None]
    """Of the validation tiles, how many are embedded as maps too, in overlapping windows, for `window_ratio`: up to
    forty times the time of embedding the tile; null: all."""
    pictures: Aside[Amount]
    """Tiles that are drawn."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Runtime:
    """Where and how a run is computed. Only the precision can change a result."""

    name: Aside[Name]
    precision: Literal["32-true", "bf16-mixed"]
    """Precision of encoder, decoder and upsamplers; weights, targets and losses are always float32."""
    device: Aside[Literal["auto", "cpu", "cuda"]]
    """`auto`, `cpu` or `cuda`."""
    processes: Aside[PerMachine]
    """Processes (one per device) on each machine."""
    nodes: Aside[Count]
    """Machines; several are started by `hybrid-patch launch`."""
    strategy: Aside[Literal["single", "ddp", "fsdp"]]
    """`single`, or with several processes `ddp` (each holds all weights) or `fsdp` (each holds a part)."""
    workers: Aside[Annotated[int, Field(ge=0, le=PROCESSORS)]]
    """Processes that load data; 0: the training process itself."""
    threads: Aside[PerMachine | None]
    """CPU threads per process; null: torch's choice."""
    accumulate: Aside[Count]
    """Microbatches of a process's samples: same gradients, less memory; an instance term costs one more forward."""
    gradient_checkpointing: Aside[bool]
    """Recompute the blocks in the backward pass instead of keeping their activations."""
    compile_blocks: Aside[bool]
    """Compile the transformer blocks with torch.compile (needs a C++ compiler, or a GPU with Triton)."""
    profile: Aside[Amount]
    """Steps, from the fourth of a start on, that torch.profiler traces into the run's `profile.json.gz`; 0: none."""

    @property
    def world_size(self) -> int:
        return self.processes * self.nodes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Wandb:
    """Metrics go to Weights & Biases too."""

    name: Literal["wandb"]
    mode: Literal["offline", "online"]
    """`offline` needs neither network nor account; a training ends with the `wandb sync` command that uploads it."""
    project: Name
    """The project's name."""
    entity: Name | None
    """The user or team; null: the account's default."""
    group: Name | None
    """The group of runs; null: the name of the sweep."""
    tags: tuple[Name, ...]
    """Tags of the run."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tensorboard:
    """Metrics go to TensorBoard's event files too."""

    name: Literal["tensorboard"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Csv:
    """Metrics go to a table too."""

    name: Literal["csv"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoLogger:
    """Metrics go to metrics.jsonl alone."""

    name: Literal["none"]


Logger = Annotated[Wandb | Tensorboard | Csv | NoLogger, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """One run."""

    seed: Seed
    """Of weights, crops, masks and queries."""
    patch: Patch
    upsampler: Upsampler
    decoder: Decoder
    curriculum: Curriculum
    model: Model
    init: Init
    head: Head
    data: Data
    masking: Masking
    loss: Loss
    target: Target
    optimizer: Optimizer
    trainer: Trainer
    evaluation: Aside[Evaluation]
    runtime: Runtime
    logger: Aside[Logger]
    continue_from: ContinueFrom | None
    """A run to go on from, with its config and all of its state; null: none."""
    run_dir: Aside[FolderPath | None]
    """The run's directory; null: `runs/<sweep_name>/<run id>`."""
    sweep_name: Aside[Name]
    """The folder of the run below runs/."""
