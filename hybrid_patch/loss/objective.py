"""The objective: a model, its frozen targets, and the weighted terms of its loss."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hybrid_patch.config.schema import Config
from hybrid_patch.curriculum import PatchSizes, all_sizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.modality import Modality
from hybrid_patch.distributed import global_sum, world_size
from hybrid_patch.loss.instance import instance_contrast
from hybrid_patch.loss.patch_discrimination import patch_discrimination
from hybrid_patch.loss.reconstruct import reconstruction
from hybrid_patch.masking import Mask
from hybrid_patch.nn.heads import ProjectAndAggregate
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.nn.patch_embed import patches
from hybrid_patch.nn.target import RandomTargets, TargetKeys
from hybrid_patch.tokens import FineTokens

PerSample = tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]
"""The loss of each sample, and whether it has one."""


class Objective(nn.Module):
    """Everything that is trained, and what it is trained for.

    A term of weight 0 is neither built nor computed, and what only it would use is frozen.
    """

    def __init__(self, config: Config, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        loss, width = config.loss, config.model.encoder.width
        self.loss = loss
        self.mixed = config.runtime.precision == "bf16-mixed"
        self.categorical = {name: m.kind == "categorical" for name, m in modalities.items()}
        self.channels = {name: m.band_set_channels for name, m in modalities.items()}
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
                    f"{name}_set{s}_ps{ps}": nn.Linear(config.model.decoder.width, len(channels) * ps**2)
                    for name, band_sets in self.channels.items()
                    for s, channels in enumerate(band_sets)
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
        latents, predictions = [], []
        device = batch.timestamps.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.mixed):
            for masks in batch.views:
                grids, fine = self.model.encode(batch.pixels, masks, batch.timestamps, sizes)
                latents.append(fine)
                if self.predicts:
                    predictions.append(self.model.decode(grids, masks, batch.timestamps, sizes))
        with torch.autocast(device, enabled=False):
            terms = self._terms(batch, sizes, latents, predictions)
        weights = {name: getattr(self.loss, name).weight for name in terms}
        return {"loss": torch.stack([weights[name] * term for name, term in terms.items()]).sum(), **terms}

    def _terms(
        self,
        batch: Batch,
        sizes: PatchSizes,
        latents: list[dict[str, FineTokens]],
        predictions: list[dict[str, FineTokens]],
    ) -> dict[str, Float[Tensor, ""]]:
        terms: dict[str, Float[Tensor, ""]] = {}
        if self.loss.decoded.weight > 0 or self.loss.visible.weight > 0:
            keys = {name: self.targets.keys(name, pixels, sizes.output) for name, pixels in batch.pixels.items()}
        if self.loss.decoded.weight > 0:
            terms["decoded"] = self._discriminate(batch, sizes, predictions, self.decoded_head, keys, Mask.DECODE)
        if self.loss.visible.weight > 0:
            terms["visible"] = self._discriminate(batch, sizes, latents, self.visible_head, keys, Mask.ENCODE)
        if self.loss.instance.weight > 0:
            first, second = (
                self.aggregate(
                    {name: fine.float() for name, fine in tokens.items()},
                    {name: batch.selected(view, name, Mask.ENCODE, *sizes) for name in tokens},
                )
                for view, tokens in enumerate(latents)
            )
            terms["instance"] = instance_contrast(first, second, self.loss.instance.temperature)
        if self.loss.reconstruct.weight > 0:
            terms["reconstruct"] = self._reconstruct(batch, sizes, predictions)
        return terms

    def _discriminate(
        self,
        batch: Batch,
        sizes: PatchSizes,
        views: list[dict[str, FineTokens]],
        head: nn.Linear,
        keys: Mapping[str, TargetKeys],
        value: Mask,
    ) -> Float[Tensor, ""]:
        term = self.loss.decoded if value == Mask.DECODE else self.loss.visible
        return _mean(
            [
                patch_discrimination(
                    fine.float().transform(head.weight.mT, head.bias),
                    keys[name],
                    batch.selected(view, name, value, *sizes),
                    term.temperature,
                    self.categorical[name],
                    self.loss.backend,
                    self.loss.chunk,
                )
                for view, tokens in enumerate(views)
                for name, fine in tokens.items()
            ]
        )

    def _reconstruct(self, batch: Batch, sizes: PatchSizes, views: list[dict[str, FineTokens]]) -> Float[Tensor, ""]:
        losses = []
        for view, tokens in enumerate(views):
            for name, fine in tokens.items():
                take = batch.selected(view, name, Mask.DECODE, *sizes)
                for s, channels in enumerate(self.channels[name]):
                    head = self.pixel_heads[f"{name}_set{s}_ps{sizes.output}"]
                    assert isinstance(head, nn.Linear)
                    pixels = patches(batch.pixels[name][..., list(channels)], sizes.output)
                    losses.append(reconstruction(fine, head.weight.mT, head.bias, pixels, take, s))
        return _mean(losses)


def _mean(losses: list[PerSample]) -> Float[Tensor, ""]:
    """Mean over samples, then over the views and modalities that have any; an exact 0 if none has."""
    sums = torch.stack([loss.sum() for loss, _ in losses])
    counts = global_sum(torch.stack([some.sum() for _, some in losses]).to(sums.dtype))
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1) * world_size()
