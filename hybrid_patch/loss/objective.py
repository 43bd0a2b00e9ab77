"""The objective: frozen targets and the weighted terms of the loss."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config.curriculum import PatchSizes, all_sizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.config.target_options import RandomTarget
from hybrid_patch.data.batch import Batch, MaskedTokens
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.masking import Mask, expected_tokens
from hybrid_patch.data.patchify import repatchify
from hybrid_patch.loss.all_gather import global_sum
from hybrid_patch.loss.context import ContextDiscrimination, context_keys
from hybrid_patch.loss.context_targets import ContextTargets
from hybrid_patch.loss.forward_pass import ForwardPass
from hybrid_patch.loss.instance import InstanceContrast
from hybrid_patch.loss.patch_discrimination import DecodedDiscrimination, VisibleDiscrimination
from hybrid_patch.loss.queries import Cells, draw_queries
from hybrid_patch.loss.reconstruction import Reconstruction
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.loss.term import LossSetting, MicrobatchContext, Source, Term

TERMS: tuple[type[Term], ...] = (
    DecodedDiscrimination,
    VisibleDiscrimination,
    InstanceContrast,
    Reconstruction,
    ContextDiscrimination,
)
"""All terms of the loss, in the order in which their heads are initialised."""


class Objective(nn.Module):
    """The terms of the loss, and the targets that they share. A term of weight 0 is neither built nor computed.

    `frozen_targets` begins the names of what a config decides in its state, whatever has been trained or fitted.
    """

    frozen_targets: ClassVar[str] = "targets."

    def __init__(self, config: Config, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        assert isinstance(config.target, RandomTarget)
        self.loss, self.masking, self.modalities = config.loss, config.masking, dict(modalities)
        widths: dict[Source, int] = {"encoder": config.model.encoder.width, "decoder": config.model.decoder.width}
        patch_sizes = {sizes.output for sizes in all_sizes(config.curriculum)}
        if self.loss.target_patch_size == 1:
            patch_sizes = {1}
        self.targets = RandomTargets(
            modalities, widths["encoder"], patch_sizes, config.target.seed, config.target.centre
        )
        self.context_targets = None
        if self.loss.context.weight > 0:
            self.context_targets = ContextTargets(modalities, config.data.timesteps)
        context_widths = {} if self.context_targets is None else self.context_targets.widths()
        setting = LossSetting(self.loss, self.modalities, widths, patch_sizes, context_widths)
        self.weights: dict[str, float] = {term.name: getattr(self.loss, term.name).weight for term in TERMS}
        self.terms = nn.ModuleDict({term.name: term(setting) for term in TERMS if self.weights[term.name] > 0})

    def fit(self, crops: Iterable[Crop]) -> None:
        """Fit what targets must know of the data to crops as the model sees them."""
        if self.context_targets is not None:
            self.context_targets.fit(crops)

    def token_means(self) -> dict[str, Float[Tensor, " d"]]:
        """The mean tokens of modalities, where the targets are tokens."""
        return {}

    def active_terms(self) -> list[Term]:
        return list(cast(Iterable[Term], self.terms.values()))

    @property
    def sources(self) -> set[Source]:
        """Whose tokens the terms compare."""
        return {term.source for term in self.active_terms()}

    def forward(self, passed: ForwardPass, context: MicrobatchContext | None = None) -> dict[str, Float[Tensor, ""]]:
        """The terms by name, unweighted, and `loss`, their weighted sum.

        Each process returns its share times the number of processes, so that the mean over processes (DDP's gradients)
        is that of one process with the whole batch. With the context of a microbatch, the values are its share.
        """
        values: dict[str, Tensor] = {}
        with passed.full_precision():
            context = context or self.batch_context(passed.batch, passed.sizes)
            for source in context.counts:
                terms = [term for term in self.active_terms() if term.source == source]
                parts = self.parts(passed, source, terms)
                values |= {term.name: term.reduce(parts[term.name], context) for term in terms}
            loss = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return {"loss": loss, **values}

    def parts(self, passed: ForwardPass, source: Source, terms: Sequence[Term]) -> dict[str, list[Any]]:
        """What each of a source's terms computes of each modality: of the encoder's, one at a time to save memory."""
        parts: dict[str, list[Any]] = {term.name: [] for term in terms}
        names = list(_tokens(passed.batch, source).each)
        for group in [names] if source == "decoder" else [[name] for name in names]:
            cells = {name: self.cells(name, passed, source) for name in group}
            fine = {}
            for everywhere in {term.needs_all_positions for term in terms}:
                positions = {name: x.everywhere if everywhere else x.positions for name, x in cells.items()}
                fine[everywhere] = passed.tokens(source, positions)
            for name, each in cells.items():
                for term in terms:
                    tokens = fine[term.needs_all_positions][name]
                    parts[term.name].append(term.of_modality(tokens, each, self.targets))
        return parts

    def cells(self, name: str, passed: ForwardPass, source: Source) -> Cells:
        """What is compared of a modality, in the cells that the encoder saw or that the decoder predicts."""
        batch, (processing, output), packing = passed.batch, passed.sizes, _tokens(passed.batch, source).each[name]
        _, h, w, t, s = batch.masks[name].shape
        value = Mask.ENCODE if source == "encoder" else Mask.DECODE
        expected = expected_tokens(self.masking, self.modalities[name], (h, w, t, s), value)
        patches = packing.over(s).gather(repatchify(passed.patches[name], output).flatten(1, 3))[:, :, :, None]
        patch_size, factor, sampling = output, passed.sizes.factor, batch.query_sampling
        shares = mean_weights = None
        if self._averages_targets(output):
            pixel_mask = batch.valid_patches(name, packing, 1).unflatten(-1, (processing, processing, 1))
            pixel_mask = repatchify(pixel_mask, output)
            shares = pixel_mask / pixel_mask.sum(-1, keepdim=True).clamp(min=1)
            patches, patch_size = patches.squeeze(3).unflatten(-1, (output**2, -1)), 1
            valid_mask = loss_mask = pixel_mask.any(-1)
        else:
            valid_mask = loss_mask = batch.valid_patches(name, packing, output)
        if self.loss.target_patch_size == "processing":
            factor, sampling = 1, dataclasses.replace(sampling, subpixels=sampling.subpixels[:1] * 0)
            mean_weights = valid_mask / valid_mask.sum(-1, keepdim=True).clamp(min=1)
            patches = (mean_weights[..., None, None] * patches).sum(2, keepdim=True)
            loss_mask = valid_mask.any(-1, keepdim=True)
        queries = draw_queries(packing, factor, self.loss.max_queries, expected, sampling)
        if mean_weights is not None:
            mean_weights = queries.rows_of(mean_weights)
        return Cells(
            name, patch_size, packing, packing.index % s, valid_mask, patches, shares, loss_mask, queries, mean_weights
        )

    def _averages_targets(self, output: int) -> bool:
        """Whether the target of an output patch is the mean of several; of one pixel it is that pixel's."""
        return self.loss.target_patch_size == 1 and output > 1

    def batch_context(self, batch: Batch, sizes: PatchSizes) -> MicrobatchContext:
        """What all microbatches of a batch must know of it."""
        keys, averaged = {}, self._averages_targets(sizes.output)
        if self.context_targets is not None:
            means, max_keys = self.loss.target_patch_size == "processing", self.loss.context.max_keys
            for name in batch.encoded.each:
                keys[name] = context_keys(self.context_targets, name, batch, sizes, means, averaged, max_keys)
        return MicrobatchContext(self.sample_counts(batch, 1 if averaged else sizes.output), {}, keys)

    def sample_counts(self, batch: Batch, output: int) -> dict[Source, Float[Tensor, " modalities"]]:
        """By source, how many samples and views of all processes have a valid patch of that size: of each modality."""
        counts: dict[Source, Tensor] = {}
        for source in get_args(Source):
            if any(term.source == source for term in self.active_terms()):
                tokens = _tokens(batch, source).each.items()
                valid = [batch.valid_patches(name, packing, output).flatten(1).any(1) for name, packing in tokens]
                counts[source] = global_sum(torch.stack([each.sum() for each in valid]).float())
        return counts


def _tokens(batch: Batch, source: Source) -> MaskedTokens:
    return batch.encoded if source == "encoder" else batch.decoded
