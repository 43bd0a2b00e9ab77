"""The objective: a model, its frozen targets, and the weighted terms of its loss."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config.schema import Config, ContrastiveTerm
from hybrid_patch.curriculum import PatchSizes, all_sizes
from hybrid_patch.data.batch import Batch, Guide
from hybrid_patch.data.modality import Modality
from hybrid_patch.distributed import global_sum, world_size
from hybrid_patch.loss.instance import instance_contrast
from hybrid_patch.loss.patch_discrimination import patch_discrimination
from hybrid_patch.loss.queries import Queries, all_queries, draw_queries
from hybrid_patch.loss.reconstruct import reconstruction
from hybrid_patch.nn.heads import ProjectAndAggregate
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.nn.target import RandomTargets
from hybrid_patch.nn.upsampler import Upsampler
from hybrid_patch.packing import Packing
from hybrid_patch.parts import UPSAMPLER, part_of_a_step
from hybrid_patch.patches import cut, cut_again
from hybrid_patch.tokens import FineTokens, Positions, TokenGrid

PerSample = tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]
"""The loss of each sample, and whether it has one."""
Patches = Mapping[str, Float[Tensor, "b h w _ p q _"]]


class Cells(NamedTuple):
    """What a loss compares in the coarse cells of one modality that have one mask value.

    Attributes:
        name: of the modality.
        packing: which cells of the flattened grid `[B V, h w T S]`, n of each view.
        band_set: `[B V, n]`.
        pixels: `[B V, n, f^2, m]` of the output patches in them, `m = C ps^2` numbers each.
        take: `[B V, n, f^2]` the output patches that count: none that has a missing pixel.
        queries: which of them are worked out.
    """

    name: str
    packing: Packing
    band_set: Int[Tensor, "b n"]
    pixels: Float[Tensor, "b n places m"]
    take: Bool[Tensor, "b n places"]
    queries: Queries


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
            self.aggregate = ProjectAndAggregate(width)
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
            self.model.decoder_upsampler.requires_grad_(False)
        if loss.visible.weight == 0 and loss.instance.weight == 0:
            self.model.encoder_upsampler.requires_grad_(False)

    def forward(self, batch: Batch, sizes: PatchSizes) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss by name, unweighted, and `loss`, their weighted sum; means over all processes' samples.

        Each process returns its share times the number of processes, so that the mean over processes (which is what
        DDP takes of the gradients) is that of one process with the whole batch.
        """
        terms: dict[str, Float[Tensor, ""]] = {}
        patches = {name: cut(pixels, sizes.processing) for name, pixels in batch.pixels.items()}
        device = batch.timestamps.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.mixed):
            latents, encoded = self.model.encode(patches, batch)
        if self.loss.visible.weight > 0 or self.loss.instance.weight > 0:
            terms |= self._encoder_terms(batch, patches, sizes, encoded)
        if self.predicts:
            with torch.autocast(device, torch.bfloat16, enabled=self.mixed):
                predicted = self.model.decode(latents, batch, sizes.processing)
            terms |= self._decoder_terms(batch, patches, sizes, predicted)
        weights = {name: getattr(self.loss, name).weight for name in terms}
        return {"loss": torch.stack([weights[name] * term for name, term in terms.items()]).sum(), **terms}

    def _encoder_terms(
        self, batch: Batch, patches: Patches, sizes: PatchSizes, encoded: Mapping[str, TokenGrid]
    ) -> dict[str, Float[Tensor, ""]]:
        """`visible` and `instance`, of the fine tokens of what the encoder saw."""
        visible: list[PerSample] = []
        pooled: dict[str, FineTokens] = {}
        taken: dict[str, Bool[Tensor, "bv n places"]] = {}
        for name, grid in encoded.items():
            cells = self._cells(name, batch, patches, sizes, batch.encoded.each[name], self.masking.encode_ratio)
            queries = cells.queries if self.loss.visible.weight > 0 else all_queries(cells.packing, sizes.factor)
            fine = self._upsample(self.model.encoder_upsampler, grid, sizes, queries.positions, batch.guide(name))
            if self.loss.visible.weight > 0:
                visible.append(self._discriminate(fine, self.visible_head, self.loss.visible, cells, sizes))
            if self.loss.instance.weight > 0:
                if queries.drawn:  # the mean is over all positions
                    everywhere = all_queries(cells.packing, sizes.factor).positions
                    fine = self._upsample(self.model.encoder_upsampler, grid, sizes, everywhere, batch.guide(name))
                pooled[name], taken[name] = fine.float(), cells.take
        terms = {"visible": _mean(visible)} if visible else {}
        if pooled:
            with torch.autocast(batch.timestamps.device.type, enabled=False):
                first, second = self.aggregate(pooled, taken).unflatten(0, (-1, 2)).unbind(1)
                terms["instance"] = instance_contrast(first, second, self.loss.instance.temperature)
        return terms

    def _decoder_terms(
        self, batch: Batch, patches: Patches, sizes: PatchSizes, predicted: Mapping[str, TokenGrid]
    ) -> dict[str, Float[Tensor, ""]]:
        """`decoded` and `reconstruct`, of the fine tokens of what was hidden."""
        decoded: list[PerSample] = []
        reconstruct: list[PerSample] = []
        for name, grid in predicted.items():
            cells = self._cells(name, batch, patches, sizes, batch.decoded.each[name], self.masking.decode_ratio)
            fine = self._upsample(self.model.decoder_upsampler, grid, sizes, cells.queries.positions)
            if self.loss.decoded.weight > 0:
                decoded.append(self._discriminate(fine, self.decoded_head, self.loss.decoded, cells, sizes))
            if self.loss.reconstruct.weight > 0:
                reconstruct.append(self._reconstruct(fine, cells, sizes))
        terms = {"decoded": _mean(decoded)} if decoded else {}
        return terms | ({"reconstruct": _mean(reconstruct)} if reconstruct else {})

    def _cells(
        self, name: str, batch: Batch, patches: Patches, sizes: PatchSizes, packing: Packing, ratio: float
    ) -> Cells:
        band_sets = len(self.modalities[name].band_sets)
        pixels = cut_again(patches[name], sizes.output).flatten(1, 3)
        return Cells(
            name,
            packing,
            packing.index % band_sets,
            packing.over(band_sets).gather(pixels),
            batch.measured(name, packing, sizes.output),
            draw_queries(packing, sizes.factor, self.loss.max_queries, round(ratio * packing.length), batch.draw),
        )

    @part_of_a_step(UPSAMPLER)
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
        self, fine: FineTokens, head: nn.Linear, term: ContrastiveTerm, cells: Cells, sizes: PatchSizes
    ) -> PerSample:
        modality = self.modalities[cells.name]
        categorical = modality.kind == "categorical"
        most = modality.channels ** (sizes.output**2) if categorical else None
        with torch.autocast(cells.take.device.type, enabled=False):
            coded = categorical or self.loss.merge_duplicates
            keys = self.targets.keys(cells.name, cells.pixels, cells.band_set, sizes.output, coded)
            predictions = fine.float().transform(head.weight.mT, head.bias)
            return patch_discrimination(
                predictions,
                keys,
                cells.take,
                cells.queries,
                term.temperature,
                most,
                self.loss.backend,
                self.loss.chunk,
            )

    def _reconstruct(self, fine: FineTokens, cells: Cells, sizes: PatchSizes) -> PerSample:
        head = self.pixel_heads[f"{cells.name}_ps{sizes.output}"]
        assert isinstance(head, nn.Linear)
        band_set = cells.queries.positions.cells.index % len(self.modalities[cells.name].band_sets)
        counted = self.targets.own(cells.name, sizes.output)[:, : cells.pixels.shape[-1]][band_set]
        with torch.autocast(cells.take.device.type, enabled=False):
            return reconstruction(fine, head.weight.mT, head.bias, cells.pixels, counted, cells.take, cells.queries)


def _mean(losses: list[PerSample]) -> Float[Tensor, ""]:
    """Mean over samples and views, then over the modalities that have any; an exact 0 if none has."""
    sums = torch.stack([loss.sum() for loss, _ in losses])
    counts = global_sum(torch.stack([some.sum() for _, some in losses]).to(sums.dtype))
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1) * world_size()
