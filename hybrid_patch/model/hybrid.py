"""The assembled model: attention at the processing patch size, tokens at the output patch size."""

from collections.abc import Mapping

from jaxtyping import Float, Int8
from torch import Tensor, nn

from hybrid_patch.config.curriculum import PatchSizes, all_sizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch, MaskedTokens
from hybrid_patch.data.masking import Mask
from hybrid_patch.model import upsampler
from hybrid_patch.model.decoder import Decoder
from hybrid_patch.model.encoder import Encoder
from hybrid_patch.model.profiling import DECODER, ENCODER, profiled
from hybrid_patch.model.sequence import unflatten
from hybrid_patch.model.tokens import DenseTokens, Positions, TokenGrid


class HybridModel(nn.Module):
    """Encoder, decoder, and an upsampler behind each. Only what is behind attention knows of the output patch size."""

    def __init__(self, config: Config, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        sizes = all_sizes(config.curriculum)
        base = config.model.base_patch_size or max(s.processing for s in sizes)
        factors = {s.factor for s in sizes}
        encoder, decoder = config.model.encoder, config.model.decoder
        self.encoder = Encoder(modalities, encoder, base, config.runtime)
        self.decoder = Decoder(modalities, decoder, encoder.width, config.runtime)
        self.encoder_upsampler = upsampler.build(config.upsampler, encoder.width, factors, modalities)
        self.predicts_fine = config.decoder.patch_size == "output"
        if not self.predicts_fine:
            chosen = config.decoder.upsampler or config.upsampler
            self.decoder_upsampler = upsampler.build(chosen, decoder.width, factors, None)

    @profiled(ENCODER)
    def encode(
        self, patches: Mapping[str, Float[Tensor, "b h w _ p q _"]], batch: Batch
    ) -> tuple[Float[Tensor, "bv n d"], dict[str, TokenGrid]]:
        """Latents of the ENCODE tokens of all views: packed for the decoder, and on grids `[B V, h, w, T, S, D]`.

        Args:
            patches: the batch's pixels, cut at the processing patch size, `[B, h, w, T, ps, ps, C]`.
        """
        latents = self.encoder(patches, batch.encoded.together, batch.timestamps)
        return latents, _on_grids(latents, batch.encoded, batch.masks, Mask.ENCODE)

    @profiled(DECODER)
    def decode(self, latents: Float[Tensor, "bv n d"], batch: Batch, patch_size: int) -> dict[str, TokenGrid]:
        """Predictions for the DECODE tokens, per modality, at the processing patch size."""
        grids = _sides(batch)
        predictions = self.decoder(latents, batch.encoded, batch.decoded, grids, batch.timestamps, patch_size)
        return _on_grids(predictions, batch.decoded, batch.masks, Mask.DECODE)

    @profiled(DECODER)
    def decode_fine(
        self, latents: Float[Tensor, "bv n d"], batch: Batch, positions: Mapping[str, Positions], sizes: PatchSizes
    ) -> dict[str, DenseTokens]:
        """Predictions at some positions of each modality at the output patch size."""
        found = self.decoder.fine(
            latents, batch.encoded, positions, sizes.factor, _sides(batch), batch.timestamps, sizes.processing
        )
        return {name: DenseTokens(tokens) for name, tokens in found.items()}


def _sides(batch: Batch) -> dict[str, tuple[int, int]]:
    """Rows and columns of the modalities' token grids."""
    return {name: (mask.shape[1], mask.shape[2]) for name, mask in batch.masks.items()}


def _on_grids(
    packed: Float[Tensor, "bv n d"],
    tokens: MaskedTokens,
    masks: Mapping[str, Int8[Tensor, "bv _ _ _ _"]],
    value: Mask,
) -> dict[str, TokenGrid]:
    masks = {name: masks[name] for name in tokens.each}
    grids = unflatten(tokens.together.scatter(packed), masks)
    return {name: TokenGrid(grid, masks[name] == value) for name, grid in grids.items()}
