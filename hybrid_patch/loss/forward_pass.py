"""One pass of the model over a batch, and the fine tokens that the terms of the loss ask it for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch, Guide
from hybrid_patch.data.patchify import patchify
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.model.profiling import UPSAMPLER, profiled
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid, Tokens
from hybrid_patch.model.upsampler import Upsampler


class ForwardPass:
    """The encoder's tokens, and predictions from them. The views of a sample go through the model as a larger batch.

    Attributes:
        batch, sizes: of the pass.
        patches: the batch's pixels in patches of the processing patch size, `[B, h, w, T, ps, ps, C]`.
        encoded: the encoder's tokens, by modality.
    """

    def __init__(self, model: HybridModel, batch: Batch, sizes: PatchSizes, mixed_precision: bool) -> None:
        """Run the encoder.

        Args:
            mixed_precision: compute the model, but not the losses, in bfloat16.
        """
        self.model, self.batch, self.sizes, self.mixed_precision = model, batch, sizes, mixed_precision
        self.patches: Mapping[str, Tensor] = {
            name: patchify(pixels, sizes.processing) for name, pixels in batch.pixels.items()
        }
        with self._model_precision():
            self._latents, self.encoded = model.encode(self.patches, batch)

    def encoder_tokens(self, name: str, positions: Positions) -> FineTokens:
        """Fine tokens of what the encoder saw of a modality."""
        grid = self.encoded[name]
        return self._upsample(self.model.encoder_upsampler, grid, positions, self.batch.guide(name))

    def decoder_tokens(self, positions: Mapping[str, Positions]) -> Mapping[str, Tokens]:
        """Predictions at some positions of each modality: decoded one by one, or upsampled."""
        with self._model_precision():
            if self.model.predicts_fine:
                return self.model.decode_fine(self._latents, self.batch, positions, self.sizes)
            predicted = self.model.decode(self._latents, self.batch, self.sizes.processing)
        upsampler = self.model.decoder_upsampler
        return {name: self._upsample(upsampler, grid, positions[name], None) for name, grid in predicted.items()}

    def full_precision(self) -> torch.autocast:
        """A context for losses, which are in float32."""
        return torch.autocast(self.batch.timestamps.device.type, enabled=False)

    def _model_precision(self) -> torch.autocast:
        return torch.autocast(self.batch.timestamps.device.type, torch.bfloat16, enabled=self.mixed_precision)

    @profiled(UPSAMPLER)
    def _upsample(self, upsampler: Upsampler, grid: TokenGrid, positions: Positions, guide: Guide | None) -> FineTokens:
        with self._model_precision():
            return upsampler(grid, self.sizes.factor, positions, guide)
