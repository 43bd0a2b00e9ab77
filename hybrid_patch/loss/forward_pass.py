"""One pass of the model over a batch, and the fine tokens that the terms of the loss ask it for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.patchify import patchify
from hybrid_patch.loss.term import Source
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.model.profiling import UPSAMPLER, profiled
from hybrid_patch.model.tokens import Positions, Tokens


class ForwardPass:
    """The encoder's tokens, and predictions from them; `mixed_precision` runs the model, but no loss, in bfloat16.

    `patches` are the batch's pixels at the processing patch size, `[B, h, w, T, ps, ps, C]`.
    """

    def __init__(self, model: HybridModel, batch: Batch, sizes: PatchSizes, mixed_precision: bool) -> None:
        self.model, self.batch, self.sizes, self.mixed_precision = model, batch, sizes, mixed_precision
        self.patches: Mapping[str, Tensor] = {
            n: patchify(pixels, sizes.processing) for n, pixels in batch.pixels.items()
        }
        with self._model_precision():
            self._latents, self._encoded = model.encode(self.patches, batch)

    def tokens(self, source: Source, positions: Mapping[str, Positions]) -> Mapping[str, Tokens]:
        """Fine tokens at some positions of each modality: of what the encoder saw, or the decoder's predictions."""
        model, batch = self.model, self.batch
        with self._model_precision():
            if source == "encoder":
                upsampler, grids = model.encoder_upsampler, self._encoded
            elif model.predicts_fine:
                return model.decoder.fine(self._latents, batch, positions, self.sizes)
            else:
                upsampler, grids = model.decoder_upsampler, model.decode(self._latents, batch, self.sizes.processing)
            tokens = {}
            with profiled(UPSAMPLER):
                for name, where in positions.items():
                    guide = batch.guide(name) if source == "encoder" else None
                    tokens[name] = upsampler(grids[name], self.sizes.factor, where, guide)
            return tokens

    def full_precision(self) -> torch.autocast:
        """A context for losses, which are in float32."""
        return torch.autocast(self.batch.timestamps.device.type, enabled=False)

    def _model_precision(self) -> torch.autocast:
        # Without a cache: if modalities shared a cast weight, their gradients to it would be added up in bfloat16.
        device = self.batch.timestamps.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.mixed_precision, cache_enabled=False)
