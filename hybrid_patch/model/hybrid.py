"""The assembled model: attention at the processing patch size, tokens at the output patch size."""

from collections.abc import Collection, Mapping

from jaxtyping import Float, Int8
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.config.curriculum import PatchSizes, all_sizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch, MaskedTokens
from hybrid_patch.data.masking import Mask
from hybrid_patch.model.decoder import Decoder
from hybrid_patch.model.encoder import Encoder
from hybrid_patch.model.profiling import DECODER, ENCODER, profiled
from hybrid_patch.model.tokens import DenseTokens, Positions, TokenGrid, as_grids
from hybrid_patch.model.upsampler import TokenSpec, UpsamplerFactory, factory
from hybrid_patch.model.upsampler.bilinear import Bilinear


class HybridModel(nn.Module):
    """Encoder, decoder, and an upsampler behind each. Only what is behind attention knows the output patch size.

    Args:
        modalities: that it can embed and predict.
        sizes: the patch sizes that it is trained at.
        encoder, decoder: sizes of the transformers.
        upsampler: of the encoder's tokens.
        decoder_upsampler: of the decoder's; None: the encoder's, or interpolation if that needs pixels.
        predicts_fine: the decoder predicts at the output patch size, and nothing is upsampled behind it.
        base_patch_size: the side of the patch embedding's own kernels; None: the largest processing patch size.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        sizes: Collection[PatchSizes],
        encoder: schema.Transformer,
        decoder: schema.Transformer,
        upsampler: UpsamplerFactory = Bilinear,
        decoder_upsampler: UpsamplerFactory | None = None,
        predicts_fine: bool = False,
        base_patch_size: int | None = None,
    ) -> None:
        super().__init__()
        factors = {s.factor for s in sizes}
        self.encoder = Encoder(modalities, encoder, base_patch_size or max(s.processing for s in sizes))
        self.decoder = Decoder(modalities, decoder, encoder.width)
        self.encoder_upsampler = upsampler(TokenSpec(encoder.width, factors, modalities))
        self.predicts_fine = predicts_fine
        if not predicts_fine:
            default = Bilinear if self.encoder_upsampler.needs_pixels else upsampler
            self.decoder_upsampler = (decoder_upsampler or default)(TokenSpec(decoder.width, factors))

    def compute_with(self, gradient_checkpointing: bool, compile_blocks: bool) -> None:
        """How the transformer blocks are computed; parameters and their names stay.

        Args:
            gradient_checkpointing: recompute blocks in the backward pass instead of keeping their activations.
            compile_blocks: compile each block by itself: they are all alike.
        """
        for transformer in (self.encoder.transformer, self.decoder.transformer):
            transformer.gradient_checkpointing = gradient_checkpointing
            if compile_blocks:
                for block in transformer.blocks:
                    block.compile()

    @profiled(ENCODER)
    def encode(
        self, patches: Mapping[str, Float[Tensor, "b h w _ p q _"]], batch: Batch
    ) -> tuple[Float[Tensor, "bv n d"], dict[str, TokenGrid]]:
        """Latents of the ENCODE tokens of all views: packed for the decoder, and on grids `[B V, h, w, T, S, D]`.

        Args:
            patches: the batch's pixels, split at the processing patch size, `[B, h, w, T, ps, ps, C]`.
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
        predictions = self.decoder.fine(
            latents, batch.encoded, positions, sizes.factor, _sides(batch), batch.timestamps, sizes.processing
        )
        return {name: DenseTokens(tokens) for name, tokens in predictions.items()}


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
    grids = as_grids(tokens.together.scatter(packed), masks)
    return {name: TokenGrid(grid, masks[name] == value) for name, grid in grids.items()}


def build_model(config: Config, modalities: Mapping[str, Modality]) -> HybridModel:
    """The model of a run."""
    chosen = config.decoder.upsampler
    model = HybridModel(
        modalities,
        all_sizes(config.curriculum),
        config.model.encoder,
        config.model.decoder,
        upsampler=factory(config.upsampler),
        decoder_upsampler=None if chosen is None else factory(chosen),
        predicts_fine=config.decoder.patch_size == "output",
        base_patch_size=config.model.base_patch_size,
    )
    model.compute_with(config.runtime.gradient_checkpointing, config.runtime.compile_blocks)
    return model
