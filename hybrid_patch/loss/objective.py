"""The objective: frozen targets and the weighted terms of the loss."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config.curriculum import all_sizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.data.masking import Mask, expected_tokens
from hybrid_patch.loss.forward_pass import ForwardPass
from hybrid_patch.loss.instance import InstanceContrast
from hybrid_patch.loss.patch_discrimination import DecodedDiscrimination, VisibleDiscrimination
from hybrid_patch.loss.queries import Cells, cells_of
from hybrid_patch.loss.reconstruction import Reconstruction
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.loss.term import LossSetting, MicrobatchContext, Source, Term
from hybrid_patch.model.tokens import Tokens

TERMS: tuple[type[Term], ...] = (DecodedDiscrimination, VisibleDiscrimination, InstanceContrast, Reconstruction)
"""All terms of the loss, in the order in which their heads are initialised."""


class Objective(nn.Module):
    """The terms of the loss, and the targets that they share. A term of weight 0 is neither built nor computed.

    Attributes:
        targets: frozen projections of pixels.
        terms: by name, those of a weight above 0.
    """

    def __init__(self, config: Config, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        self.loss, self.masking, self.modalities = config.loss, config.masking, dict(modalities)
        widths: dict[Source, int] = {
            "encoder": config.model.encoder.width,
            "decoder": config.model.decoder.width,
        }
        patch_sizes = {sizes.output for sizes in all_sizes(config.curriculum)}
        self.targets = RandomTargets(
            modalities, widths["encoder"], patch_sizes, self.loss.target_seed, self.loss.centre_targets
        )
        setting = LossSetting(self.loss, self.modalities, widths, patch_sizes)
        self.weights: dict[str, float] = {term.name: getattr(self.loss, term.name).weight for term in TERMS}
        self.terms = nn.ModuleDict({term.name: term(setting) for term in TERMS if self.weights[term.name] > 0})

    def active_terms(self) -> list[Term]:
        """The terms of a weight above 0."""
        return list(cast(Iterable[Term], self.terms.values()))

    def forward(self, passed: ForwardPass, context: MicrobatchContext | None = None) -> dict[str, Float[Tensor, ""]]:
        """The terms by name, unweighted, and `loss`, their weighted sum; means over all processes' samples.

        Each process returns its share times the number of processes, so that the mean over processes (which is what
        DDP takes of the gradients) is that of one process with the whole batch.

        Args:
            context: in a microbatch (`grad_cache`): the terms are then its share of the batch's, and add up.
        """
        values: dict[str, Tensor] = {}
        for source, parts_of in (("encoder", self.encoder_parts), ("decoder", self.decoder_parts)):
            if terms := [term for term in self.active_terms() if term.source == source]:
                parts = parts_of(passed, terms)
                with passed.full_precision():
                    values |= {term.name: term.reduce(parts[term.name], context) for term in terms}
        return {"loss": torch.stack([self.weights[name] * value for name, value in values.items()]).sum(), **values}

    def encoder_parts(self, passed: ForwardPass, terms: Sequence[Term]) -> dict[str, list[Any]]:
        """Of each term, what it computes of each modality's tokens that the encoder saw."""
        parts: dict[str, list[Any]] = {term.name: [] for term in terms}
        for name in passed.encoded:
            cells = self.cells(name, passed, Mask.ENCODE)
            fine: dict[bool, Tokens] = {}
            for term in terms:
                everywhere = term.needs_all_positions and cells.queries.drawn
                if everywhere not in fine:
                    positions = cells.everywhere if everywhere else cells.positions
                    fine[everywhere] = passed.encoder_tokens(name, positions)
                with passed.full_precision():
                    parts[term.name].append(term.of_modality(fine[everywhere], cells, self.targets))
        return parts

    def decoder_parts(self, passed: ForwardPass, terms: Sequence[Term]) -> dict[str, list[Any]]:
        """Of each term, what it computes of each modality's predictions."""
        parts: dict[str, list[Any]] = {term.name: [] for term in terms}
        cells = {name: self.cells(name, passed, Mask.DECODE) for name in passed.batch.decoded.each}
        fine = passed.decoder_tokens({name: each.positions for name, each in cells.items()})
        for name, tokens in fine.items():
            with passed.full_precision():
                for term in terms:
                    parts[term.name].append(term.of_modality(tokens, cells[name], self.targets))
        return parts

    def cells(self, name: str, passed: ForwardPass, value: Mask) -> Cells:
        """What is compared in a modality's cells that have a mask value."""
        batch = passed.batch
        packings = batch.encoded if value == Mask.ENCODE else batch.decoded
        _, h, w, t, s = batch.masks[name].shape
        expected = expected_tokens(self.masking, self.modalities[name], (h, w, t, s), value)
        means = self.loss.patch_size == "processing"
        return cells_of(
            name,
            batch,
            passed.patches[name],
            passed.sizes.output,
            packings.each[name],
            self.loss.max_queries,
            expected,
            means,
        )
