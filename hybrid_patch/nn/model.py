"""The assembled model: attention at the processing patch size, tokens at the output patch size."""

from collections.abc import Mapping

from jaxtyping import Float, Int, Int8
from torch import Tensor, nn

from hybrid_patch.config.schema import Config
from hybrid_patch.curriculum import PatchSizes, all_sizes
from hybrid_patch.data.modality import Modality
from hybrid_patch.masking import Mask
from hybrid_patch.nn import upsampler
from hybrid_patch.nn.decoder import Decoder
from hybrid_patch.nn.encoder import Encoder
from hybrid_patch.tokens import FineTokens, TokenGrid


class HybridModel(nn.Module):
    """Encoder, decoder, and an upsampler behind each. Only the upsamplers know of the output patch size."""

    def __init__(self, config: Config, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        sizes = all_sizes(config.curriculum)
        base = config.model.base_patch_size or max(s.processing for s in sizes)
        factors = {s.factor for s in sizes}
        encoder, decoder = config.model.encoder, config.model.decoder
        checkpointing = config.runtime.gradient_checkpointing
        self.encoder = Encoder(modalities, encoder, base, checkpointing)
        self.decoder = Decoder(modalities, decoder, encoder.width, checkpointing)
        self.encoder_upsampler = upsampler.build(config.upsampler, encoder.width, factors)
        self.decoder_upsampler = upsampler.build(config.upsampler, decoder.width, factors)

    def encode(
        self,
        pixels: Mapping[str, Float[Tensor, "b height width _ _"]],
        masks: Mapping[str, Int8[Tensor, "b _ _ _ _"]],
        timestamps: Int[Tensor, "b t 3"],
        sizes: PatchSizes,
    ) -> tuple[dict[str, TokenGrid], dict[str, FineTokens]]:
        """Latents of the ENCODE tokens, per modality: at the processing patch size, and upsampled.

        Args:
            pixels: normalised, zeros where missing, `[B, H, W, T, C]`.
            masks: `Mask` values on the coarse grid, `[B, h, w, T, S]`.
            timestamps: day, month (0-11), year of the timesteps.

        Returns:
            Grids `[B, h, w, T, S, D]`, and fine tokens that stand for `[B, H/output, W/output, T, S, D]`.
        """
        visible = {name: mask == Mask.ENCODE for name, mask in masks.items()}
        grids = self.encoder(pixels, visible, timestamps, sizes.processing)
        return grids, {name: self.encoder_upsampler(grid, sizes.factor) for name, grid in grids.items()}

    def decode(
        self,
        latents: Mapping[str, TokenGrid],
        masks: Mapping[str, Int8[Tensor, "b _ _ _ _"]],
        timestamps: Int[Tensor, "b t 3"],
        sizes: PatchSizes,
    ) -> dict[str, FineTokens]:
        """Predictions for the DECODE tokens, per modality, made at the processing patch size and upsampled."""
        hidden = {name: mask == Mask.DECODE for name, mask in masks.items()}
        grids = self.decoder(latents, hidden, timestamps, sizes.processing)
        return {name: self.decoder_upsampler(grid, sizes.factor) for name, grid in grids.items()}
