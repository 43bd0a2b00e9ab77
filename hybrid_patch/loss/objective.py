"""The objective: a model, its frozen targets, and the weighted terms of its loss."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hybrid_patch.config.curriculum import PatchSizes, all_sizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config, ContrastiveTerm
from hybrid_patch.data.batch import Batch, Guide
from hybrid_patch.data.masking import Mask, expected_tokens
from hybrid_patch.data.patchify import patchify
from hybrid_patch.loss.all_gather import global_sum, world_size
from hybrid_patch.loss.cells import Cells, cells_of
from hybrid_patch.loss.heads import ProjectAndAggregate
from hybrid_patch.loss.instance import TokenSum, instance_contrast, token_sum
from hybrid_patch.loss.patch_discrimination import patch_discrimination
from hybrid_patch.loss.reconstruction import reconstruction
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.model.profiling import UPSAMPLER, profiled
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid, Tokens
from hybrid_patch.model.upsampler import Upsampler

PerSample = tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]
"""The loss of each sample, and whether it has one."""


class Share(NamedTuple):
    """What a part of a batch must know of the whole, for its loss to be its share of the whole batch's.

    Attributes:
        visible, decoded: how many samples and views of the whole have such a term, by modality, over all processes.
        instance: this part's share of the term, and the gradient of the whole's to the part's vectors `[B V, D]`; None
            without the term.
    """

    visible: Float[Tensor, " modalities"]
    decoded: Float[Tensor, " modalities"]
    instance: tuple[Float[Tensor, ""], Float[Tensor, "bv d"]] | None


Patches = Mapping[str, Float[Tensor, "b h w _ p q _"]]


class Objective(nn.Module):
    """Everything that is trained, and what it is trained for.

    A term of weight 0 is neither built nor computed, and what only it would use is frozen. The views of a sample go
    through the model beside one another, as a larger batch.
    """

    def __init__(self, config: Config, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        loss, width = config.loss, config.model.encoder.width
        self.loss, self.masking = loss, config.masking
        self.mixed = config.runtime.precision == "bf16-mixed"
        self.modalities = dict(modalities)
        self.model = HybridModel(config, modalities)
        output_sizes = {sizes.output for sizes in all_sizes(config.curriculum)}
        self.targets = RandomTargets(modalities, width, output_sizes, loss.target_seed, loss.centre_targets)
        self.predicts = loss.decoded.weight > 0 or loss.reconstruct.weight > 0
        if loss.decoded.weight > 0:
            self.decoded_head = nn.Linear(config.model.decoder.width, width)
        if loss.visible.weight > 0:
            self.visible_head = nn.Linear(width, width)
        if loss.instance.weight > 0:
            before = loss.instance.project == "before_pooling"
            self.aggregate = ProjectAndAggregate(width, loss.instance.layers, before)
        if loss.reconstruct.weight > 0:
            self.pixel_heads = nn.ModuleDict(
                {
                    f"{name}_ps{ps}": nn.Linear(config.model.decoder.width, modality.channels * ps**2)
                    for name, modality in modalities.items()
                    for ps in output_sizes
                }
            )
        if not self.predicts:
            self.model.decoder.requires_grad_(False)
            if not self.model.predicts_fine:
                self.model.decoder_upsampler.requires_grad_(False)
        if loss.visible.weight == 0 and loss.instance.weight == 0:
            self.model.encoder_upsampler.requires_grad_(False)

    def forward(self, batch: Batch, sizes: PatchSizes, share: Share | None = None) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss by name, unweighted, and `loss`, their weighted sum; means over all processes' samples.

        Each process returns its share times the number of processes, so that the mean over processes (which is what
        DDP takes of the gradients) is that of one process with the whole batch.

        Args:
            share: if this is a part of a batch (`shares`): the terms are then its share of the batch's, and add up.
        """
        terms: dict[str, Float[Tensor, ""]] = {}
        patches = {name: patchify(pixels, sizes.processing) for name, pixels in batch.pixels.items()}
        with self._blocks(batch):
            latents, encoded = self.model.encode(patches, batch)
        if self.loss.visible.weight > 0 or self.loss.instance.weight > 0:
            terms |= self._encoder_terms(batch, patches, sizes, encoded, share)
        if self.predicts:
            terms |= self._decoder_terms(batch, patches, sizes, latents, share)
        weights = {name: getattr(self.loss, name).weight for name in terms}
        return {"loss": torch.stack([weights[name] * term for name, term in terms.items()]).sum(), **terms}

    def parameter_counts(self) -> dict[str, int]:
        """Trainable numbers: of the encoder, the decoder, the upsampler behind either, and the heads of the loss."""
        counts = dict.fromkeys(("encoder", "decoder", "encoder_upsampler", "decoder_upsampler", "heads"), 0)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                owner, *rest = name.split(".")
                counts[rest[0] if owner == "model" else "heads"] += parameter.numel()
        return counts

    @torch.no_grad()
    def shares(self, batch: Batch, parts: Sequence[Batch], sizes: PatchSizes) -> list[Share]:
        """What the parts of a batch must know of it."""
        visible, decoded = (
            global_sum(
                torch.stack(
                    [
                        batch.valid_patches(name, packing, sizes.output).flatten(1).any(1).sum()
                        for name, packing in tokens.each.items()
                    ]
                ).float()
            )
            for tokens in (batch.encoded, batch.decoded)
        )
        if self.loss.instance.weight == 0:
            return [Share(visible, decoded, None)] * len(parts)
        vectors = torch.cat([self._vectors(part, sizes) for part in parts]).requires_grad_()
        with torch.enable_grad():
            value = self._contrast(vectors)
            (gradient,) = torch.autograd.grad(value, vectors)
        each = (value / len(parts)).detach()
        return [Share(visible, decoded, (each, rows)) for rows in gradient.chunk(len(parts))]

    def _vectors(self, batch: Batch, sizes: PatchSizes) -> Float[Tensor, "bv d"]:
        """What the instance term compares."""
        patches = {name: patchify(pixels, sizes.processing) for name, pixels in batch.pixels.items()}
        with self._blocks(batch):
            _, encoded = self.model.encode(patches, batch)
        sums = []
        for name, grid in encoded.items():
            cells = self._cells(name, batch, patches, sizes, Mask.ENCODE)
            sums.append(self._sum(None, grid, cells, batch, sizes))
        return self._aggregate(sums, batch)

    def _sum(self, fine: FineTokens | None, grid: TokenGrid, cells: Cells, batch: Batch, sizes: PatchSizes) -> TokenSum:
        """The sum over fine tokens of a modality that the encoder saw; `fine`: those that are asked for, if known."""
        if fine is None or (cells.queries.drawn and self.aggregate.before_pooling):
            positions = cells.everywhere if self.aggregate.before_pooling else cells.positions
            fine = self._upsample(self.model.encoder_upsampler, grid, sizes, positions, batch.guide(cells.name))
        with _in_full(batch.timestamps):
            return token_sum(self.aggregate, fine, cells)

    def _aggregate(self, sums: Sequence[TokenSum], batch: Batch) -> Float[Tensor, "bv d"]:
        """A vector for each sample and view."""
        totals, counts = zip(*sums, strict=True)
        with _in_full(batch.timestamps):
            return self.aggregate(torch.stack(totals).sum(0), torch.stack(counts).sum(0))

    def _contrast(self, vectors: Float[Tensor, "bv d"]) -> Float[Tensor, ""]:
        first, second = vectors.unflatten(0, (-1, 2)).unbind(1)
        return instance_contrast(first, second, self.loss.instance.temperature)

    def _encoder_terms(
        self,
        batch: Batch,
        patches: Patches,
        sizes: PatchSizes,
        encoded: Mapping[str, TokenGrid],
        share: Share | None,
    ) -> dict[str, Float[Tensor, ""]]:
        """`visible` and `instance`, of the fine tokens of what the encoder saw."""
        visible: list[PerSample] = []
        sums: list[TokenSum] = []
        for name, grid in encoded.items():
            cells = self._cells(name, batch, patches, sizes, Mask.ENCODE)
            fine = None
            if self.loss.visible.weight > 0:
                fine = self._upsample(self.model.encoder_upsampler, grid, sizes, cells.positions, batch.guide(name))
                visible.append(self._discriminate(fine, self.visible_head, self.loss.visible, cells, sizes))
            if self.loss.instance.weight > 0:
                sums.append(self._sum(fine, grid, cells, batch, sizes))
        terms = {"visible": _mean(visible, share and share.visible)} if visible else {}
        if sums:
            vectors = self._aggregate(sums, batch)
            with _in_full(batch.timestamps):
                if share is None or share.instance is None:
                    terms["instance"] = self._contrast(vectors)
                else:  # the value of one, the gradient of the other
                    value, gradient = share.instance
                    product = (vectors * gradient).sum()
                    terms["instance"] = value + product - product.detach()
        return terms

    def _decoder_terms(
        self,
        batch: Batch,
        patches: Patches,
        sizes: PatchSizes,
        latents: Float[Tensor, "bv n d"],
        share: Share | None,
    ) -> dict[str, Float[Tensor, ""]]:
        """`decoded` and `reconstruct`, of the fine tokens of what was hidden."""
        decoded: list[PerSample] = []
        reconstruct: list[PerSample] = []
        cells = {name: self._cells(name, batch, patches, sizes, Mask.DECODE) for name in batch.decoded.each}
        for name, fine in self._predict(batch, sizes, latents, cells).items():
            if self.loss.decoded.weight > 0:
                decoded.append(self._discriminate(fine, self.decoded_head, self.loss.decoded, cells[name], sizes))
            if self.loss.reconstruct.weight > 0:
                reconstruct.append(self._reconstruct(fine, cells[name], sizes))
        counts = share and share.decoded
        terms = {"decoded": _mean(decoded, counts)} if decoded else {}
        return terms | ({"reconstruct": _mean(reconstruct, counts)} if reconstruct else {})

    def _predict(
        self, batch: Batch, sizes: PatchSizes, latents: Float[Tensor, "bv n d"], cells: Mapping[str, Cells]
    ) -> Mapping[str, Tokens]:
        """The decoder's fine tokens: asked for one by one, or upsampled."""
        positions = {name: each.positions for name, each in cells.items()}
        with self._blocks(batch):
            if self.model.predicts_fine:
                return self.model.decode_fine(latents, batch, positions, sizes)
            predicted = self.model.decode(latents, batch, sizes.processing)
        return {
            name: self._upsample(self.model.decoder_upsampler, grid, sizes, positions[name])
            for name, grid in predicted.items()
        }

    def _cells(self, name: str, batch: Batch, patches: Patches, sizes: PatchSizes, value: Mask) -> Cells:
        packings = batch.encoded if value == Mask.ENCODE else batch.decoded
        _, h, w, t, s = batch.masks[name].shape
        usual = expected_tokens(self.masking, self.modalities[name], (h, w, t, s), value)
        means = self.loss.patch_size == "processing"
        most = self.loss.max_queries
        return cells_of(name, batch, patches[name], sizes.output, packings.each[name], most, usual, means)

    def _blocks(self, batch: Batch) -> torch.autocast:
        """The precision of attention."""
        return torch.autocast(batch.timestamps.device.type, torch.bfloat16, enabled=self.mixed)

    @profiled(UPSAMPLER)
    def _upsample(
        self,
        upsampler: Upsampler,
        grid: TokenGrid,
        sizes: PatchSizes,
        positions: Positions,
        guide: Guide | None = None,
    ) -> FineTokens:
        with torch.autocast(grid.tokens.device.type, torch.bfloat16, enabled=self.mixed):
            return upsampler(grid, sizes.factor, positions, guide)

    def _discriminate(
        self, fine: Tokens, head: nn.Linear, term: ContrastiveTerm, cells: Cells, sizes: PatchSizes
    ) -> PerSample:
        modality = self.modalities[cells.name]
        categorical = modality.kind == "categorical"
        most = modality.channels ** (sizes.output**2) if categorical and cells.share is None else None
        with _in_full(cells.take):
            coded = categorical or self.loss.merge_duplicates
            keys = self.targets.keys(cells.name, cells.pixels, cells.band_set, sizes.output, coded)
            return patch_discrimination(
                cells.compared(fine.float().transform(head.weight.mT, head.bias)),
                keys,
                cells.take,
                cells.queries,
                term.temperature,
                most,
                self.loss.backend,
                self.loss.chunk,
            )

    def _reconstruct(self, fine: Tokens, cells: Cells, sizes: PatchSizes) -> PerSample:
        head = self.pixel_heads[f"{cells.name}_ps{sizes.output}"]
        assert isinstance(head, nn.Linear)
        band_set = cells.queries.positions.cells.index % len(self.modalities[cells.name].band_sets)
        counted = self.targets.own(cells.name, sizes.output)[:, : cells.pixels.shape[-1]][band_set]
        with _in_full(cells.take):
            predicted = cells.compared(fine.float().transform(head.weight.mT, head.bias))
            return reconstruction(predicted, cells.pixels, counted, cells.take, cells.queries)


def _in_full(where: Tensor) -> torch.autocast:
    """No autocast: losses are in float32."""
    return torch.autocast(where.device.type, enabled=False)


def _mean(losses: list[PerSample], counts: Float[Tensor, " modalities"] | None) -> Float[Tensor, ""]:
    """Mean over samples and views, then over the modalities that have any; an exact 0 if none has.

    Args:
        counts: of the samples and views by modality, if those of these losses are not all.
    """
    sums = torch.stack([loss.sum() for loss, _ in losses])
    if counts is None:
        counts = global_sum(torch.stack([some.sum() for _, some in losses]).to(sums.dtype))
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1) * world_size()
