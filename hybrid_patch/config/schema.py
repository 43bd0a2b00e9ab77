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
from hybrid_patch.config.loss_options import Loss
from hybrid_patch.config.masking_options import Masking
from hybrid_patch.config.modality import STRICT
from hybrid_patch.config.upsamplers import Upsampler


# --- patch ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Patch:
    """Patch sizes.

    Attributes:
        processing_patch_size: side, in pixels, of the patches that the transformer sees.
        output_patch_size: side, in pixels, of the patches that the output tokens represent.
    """

    processing_patch_size: Count
    output_patch_size: Count


# --- decoder ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Decoder:
    """Where hidden tokens are predicted; the decoder's size is the model's.

    Attributes:
        patch_size: a query for each hidden token, whose prediction is upsampled (`processing`), or for each fine token
            (`output`). Either way it looks at the coarse tokens that were visible.
        upsampler: of the predictions; null: the encoder's `upsampler`, or `bilinear` where that needs pixels, of which
            predictions have none.
    """

    patch_size: Literal["processing", "output"]
    upsampler: Upsampler | None


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
        stages: a list of {processing_patch_size, output_patch_size, share}.
    """

    name: str
    order: Literal["in_turn", "mixed"]
    budget: Literal["pixels", "tokens"]
    stages: tuple[Stage, ...] = Field(min_length=1)


# --- model ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Transformer:
    """Size of a stack of transformer blocks.

    Attributes:
        width: of its tokens.
        depth: number of blocks.
        heads: attention heads of a block; they divide the width.
        mlp_ratio: width of a block's hidden layer, relative to that of the tokens.
    """

    width: Count
    depth: Count
    heads: Count
    mlp_ratio: Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """Sizes of the encoder and the decoder.

    Attributes:
        base_patch_size: side of the patch embedding's own kernel, which is resized to other patch sizes; null: the
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


# --- optimizer, trainer -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """AdamW with a linear warm-up and a cosine decay.

    Attributes:
        lr: the peak learning rate.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of their squares.
        weight_decay: decoupled weight decay, relative to the learning rate.
        warmup: fraction of the steps over which the learning rate rises.
        final_lr_ratio: the last learning rate, relative to the peak.
        clip_norm: the gradient's norm is clipped to this.
    """

    name: Literal["adamw"]
    lr: Positive
    beta1: BelowOne
    beta2: BelowOne
    weight_decay: NotNegative
    warmup: Fraction
    final_lr_ratio: Fraction
    clip_norm: Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Trainer:
    """How long, with how much, and when to save.

    Attributes:
        steps: optimizer steps.
        batch_size: samples per step, over all processes.
        max_bad_steps: steps in a row without a finite loss after which the run stops.
        checkpoint_every: steps between checkpoints; 0: only at the end and on a signal.
        keep_checkpoints: number of the newest checkpoints that are kept.
    """

    steps: Count
    batch_size: Count
    max_bad_steps: Count
    checkpoint_every: Aside[Amount]
    keep_checkpoints: Aside[Count]


# --- evaluation -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """The evaluation of per-pixel embeddings during training and at its end. It never changes the weights.

    Attributes:
        every: steps between evaluations; 0: only at the end.
        tiles: training and validation tiles that are embedded, at most this many of each; null: all; 0: no evaluation.
        train_pixels: maximum number of pixels that the linear probe learns from.
        knn_pixels: of these, the neighbours of the kNN classifier, drawn by class; 0: no kNN.
        seeds: how often training pixels are drawn.
        pooling: how a pixel's tokens are pooled over modalities, timesteps and band sets: their mean, or concatenated.
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
        precision: precision of encoder, decoder and upsamplers; weights, targets and losses are always float32.
        device: `auto`, `cpu` or `cuda`.
        processes: processes (one per device) on each machine.
        nodes: machines; several are started by `hybrid-patch launch`.
        strategy: `single`, or with several processes `ddp` (each holds all weights) or `fsdp` (each holds a part).
        workers: processes that load data; 0: the training process itself.
        threads: CPU threads per process; null: torch's choice.
        accumulate: microbatches of a process's samples, one after the other: the same gradients with less memory, and
            one more forward pass of the encoder where there is an instance term.
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
    """Metrics go to Weights & Biases too.

    Attributes:
        mode: `offline` needs neither network nor account (`wandb sync` uploads later).
        project: the project's name.
        entity: the user or team; null: the account's default.
        group: the group of runs; null: none.
        tags: tags of the run.
    """

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
    """One run.

    Attributes:
        seed: of weights, crops, masks and queries.
        run_dir: the run's directory; null: `runs/<sweep_name>/<run id>`.
        sweep_name: the folder of the run below runs/.
    """

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
