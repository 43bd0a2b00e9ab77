"""The training step, the same in training, the benchmark and the planner."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn

from hybrid_patch.config.curriculum import PatchSizes, all_sizes, sizes_at
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import Source
from hybrid_patch.embed.per_pixel import unmasked_batch
from hybrid_patch.errors import InputError
from hybrid_patch.loss.all_gather import global_sum, world_size
from hybrid_patch.loss.distillation import SelfDistillation
from hybrid_patch.loss.forward_pass import ForwardPass
from hybrid_patch.loss.grad_cache import microbatch_contexts
from hybrid_patch.loss.objective import Objective
from hybrid_patch.loss.supervised import Supervised
from hybrid_patch.loss.term import MicrobatchContext
from hybrid_patch.model.hybrid import build_model
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.pooling import mean
from hybrid_patch.model.pretrained import freeze
from hybrid_patch.model.tokens import TokenGrid
from hybrid_patch.train.fsdp import full
from hybrid_patch.train.optimizer import build_optimizer

Phase = Literal["forward", "backward", "optimizer"]
FITTED_CROPS = 64
"""Crops that whitening and targets are fitted to."""
OBJECTIVES: dict[str, Any] = {"random": Objective, "self": SelfDistillation, "labels": Supervised}
"""By the name of the target."""
SKIPPED = "skipped_in_step"
"""Beside the terms of a step: the number of its samples that are broken and replaced."""


class TrainingModule(nn.Module):
    """A model and its objective as one module, which DDP and FSDP wrap. What no term of the loss uses is frozen.

    `classes` are those of the labels of `target=labels`; without any, the labels are numbers.
    """

    def __init__(self, config: Config, modalities: Mapping[str, Modality], classes: Sequence[str] = ()) -> None:
        super().__init__()
        self.mixed_precision = config.runtime.precision == "bf16-mixed"
        self.model = build_model(config, modalities, classes)
        self.objective: Any = OBJECTIVES[config.target.name](config, modalities)
        sources = self.objective.sources
        if "decoder" not in sources:
            self.model.decoder.requires_grad_(False)
            if not self.model.predicts_fine:
                self.model.decoder_upsampler.requires_grad_(False)
        if "encoder" not in sources:
            self.model.encoder_upsampler.requires_grad_(False)
        freeze(self.model, config.init.freeze)

    def forward(
        self, batch: Batch, sizes: PatchSizes, context: MicrobatchContext | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss, and `loss`, their weighted sum."""
        return self.objective(self.forward_pass(batch, sizes), context)

    def forward_pass(self, batch: Batch, sizes: PatchSizes) -> ForwardPass:
        return ForwardPass(self.model, self.model.whitened(batch), sizes, self.mixed_precision)

    def microbatch_contexts(
        self, batch: Batch, microbatches: Sequence[Batch], sizes: PatchSizes
    ) -> list[MicrobatchContext]:
        """What each microbatch must know of its batch; see `grad_cache`."""
        return microbatch_contexts(
            lambda microbatch: self.forward_pass(microbatch, sizes),
            self.objective,
            self.model.whitened(batch),
            microbatches,
            sizes,
        )

    @torch.no_grad()
    def fit(self, dataset: TrainingSteps) -> None:
        """Fit what model and targets must know of the data, at the beginning of a training, to its first crops."""
        crops: Iterable[Crop] = dataset.first_crops(FITTED_CROPS)
        if (whitening := self.model.whitening) is not None:
            if not whitening.is_fitted:
                whitening.fit(crops)
            crops = map(whitening.crop, dataset.first_crops(FITTED_CROPS))
        self.objective.fit(crops)
        if (means := self.model.position_means) is not None and not means.is_fitted:
            for sizes in set(all_sizes(dataset.config.curriculum)):
                means.fit(self._tokens(dataset, sizes), sizes.processing, self.objective.token_means())
        if (head := self.model.head) is not None:
            labels = [torch.from_numpy(each) for each in dataset.first_labels(FITTED_CROPS)]
            if not any(map(len, labels)):
                raise InputError(
                    f"target=labels: no pixel of the first {FITTED_CROPS} crops has a label; check data.labels, "
                    "or try a larger target.fraction"
                )
            head.fit_embeddings(self._embeddings(dataset))
            if not head.classes:
                head.fit_numbers(labels)

    def _embeddings(self, dataset: TrainingSteps) -> Iterator[Float[Tensor, "n d"]]:
        """The embeddings of the first crops, at positions with a token."""
        sizes = sizes_at(dataset.config, 0)
        for batch in self._unmasked(dataset, sizes):
            grids = self.model.fine_tokens(batch, sizes)
            encoded = torch.stack([grid.mask.flatten(3).any(-1) for grid in grids]).any(0)
            yield mean(grids, None)[repeat_cells(encoded, sizes.factor)]

    def _tokens(self, dataset: TrainingSteps, sizes: PatchSizes) -> Iterator[dict[str, TokenGrid]]:
        """The encoder's tokens of the first crops, all of them visible, as they are before they are centred."""
        for batch in self._unmasked(dataset, sizes):
            yield self.model.coarse_tokens(batch, sizes.processing)

    def _unmasked(self, dataset: TrainingSteps, sizes: PatchSizes) -> Iterator[Batch]:
        """The first crops, each as a batch in which all tokens are visible."""
        device = next(self.parameters()).device
        for crop in dataset.first_crops(FITTED_CROPS, sizes):
            batch = unmasked_batch([crop], sizes.processing, dataset.source.modalities, {})
            yield batch.map(lambda x: x.to(device))

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters: of the encoder, the decoder, the upsampler behind either, and the heads."""
        counts = dict.fromkeys(("encoder", "decoder", "encoder_upsampler", "decoder_upsampler", "heads"), 0)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                owner, part, *_ = name.split(".")
                counts[part if owner == "model" and part != "head" else "heads"] += parameter.numel()
        return counts


def label_classes(config: Config, source: Source) -> tuple[str, ...]:
    """The classes that the head of a config learns; none without a head, or if the labels are numbers."""
    return () if config.head.name == "none" else source.class_names()


class TrainingStep:
    """The step in one process. Subclasses replace methods to run it in several processes, or to measure it.

    A batch is computed in `microbatches` of equal size: less memory, the same gradients. `phase` makes the context in
    which a phase of the step runs, to be measured.
    """

    def __init__(
        self, module: TrainingModule, optimizer: torch.optim.Optimizer, clip_norm: float, microbatches: int
    ) -> None:
        self.module, self.optimizer = module, optimizer
        self.clip_norm, self.microbatches = clip_norm, microbatches
        self.phase: Callable[[Phase], AbstractContextManager[object]] = nullcontext

    def run(self, batch: Batch, sizes: PatchSizes) -> dict[str, Float[Tensor, ""]]:
        """One optimizer step. A loss or gradient that is not finite changes no weight.

        Returns:
            On the device, averaged over all processes: the terms of the loss, `grad_norm` before clipping, and
            `SKIPPED`.
        """
        terms = self.backpropagate(batch, sizes)
        skipped = terms["loss"].new_full((), len(batch.skipped))
        with self.phase("optimizer"):
            norm = self.clip_gradients()
        return self.update({**terms, "grad_norm": norm, SKIPPED: skipped})

    def backpropagate(self, batch: Batch, sizes: PatchSizes) -> dict[str, Float[Tensor, ""]]:
        """Add the gradients of a batch's loss to those of the parameters; the terms of the loss, outside the graph."""
        if self.microbatches == 1:
            return self._differentiate(batch, sizes)
        parts = batch.split(self.microbatches)
        with self.phase("forward"):
            contexts = self.module.microbatch_contexts(batch, parts, sizes)
        total: dict[str, Tensor] = {}
        for number, (part, context) in enumerate(zip(parts, contexts, strict=True), start=1):
            with self.gradients_unsynced(number < self.microbatches):
                terms = self._differentiate(part, sizes, context)
            total = {name: term + total.get(name, 0) for name, term in terms.items()}
        return total

    def _differentiate(self, *inputs: object) -> dict[str, Float[Tensor, ""]]:
        """The forward and the backward pass of a batch or microbatch; its terms, outside the graph."""
        with self.phase("forward"):
            terms = self.forward(*inputs)
        with self.phase("backward"):
            self.backward(terms["loss"])
        return {name: term.detach() for name, term in terms.items()}

    def update(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Step if the values are finite in all processes. Returns their means over processes."""
        means = dict(zip(values, global_sum(torch.stack(list(values.values()))) / world_size(), strict=True))
        finite = (means["loss"] + means["grad_norm"]).isfinite()
        # Whether to step is decided on the device: reading the numbers here would wait for it.
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as torch's GradScaler does
        with self.phase("optimizer"):
            self.step_optimizer()
        self.optimizer.zero_grad()
        return means

    def forward(self, *inputs: object) -> dict[str, Float[Tensor, ""]]:
        terms: dict[str, Tensor] = self.module(*inputs)
        return terms

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def gradients_unsynced(self, enabled: bool) -> AbstractContextManager[object]:
        """A context in which gradients are not summed over processes, if enabled."""
        return nullcontext()

    def clip_gradients(self) -> Tensor:
        """Clip the norm of all gradients, over all shards; the norm before."""
        return full(torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm))

    def step_optimizer(self) -> None:
        self.optimizer.step()


class FabricStep(TrainingStep):
    """The step in the processes of a Fabric, each with its part of the batch."""

    def __init__(self, module: TrainingModule, config: Config, fabric: Fabric) -> None:
        self.wrapped = fabric.setup_module(module)  # first: sharding replaces the parameters
        self.fabric = fabric
        optimizer = build_optimizer(module, config.optimizer)
        super().__init__(module, optimizer, config.optimizer.clip_norm, config.runtime.accumulate)

    def forward(self, *inputs: object) -> dict[str, Float[Tensor, ""]]:
        terms: dict[str, Tensor] = self.wrapped(*inputs)
        return terms

    def gradients_unsynced(self, enabled: bool) -> AbstractContextManager[object]:
        return self.fabric.no_backward_sync(self.wrapped, enabled=enabled)
