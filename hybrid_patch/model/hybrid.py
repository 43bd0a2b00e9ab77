"""The assembled model: attention at the processing patch size, tokens at the output patch size."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.config.architecture import Architecture, Released, require_package
from hybrid_patch.config.curriculum import PatchSizes, all_sizes, tile_for
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch, MaskedTokens, Masks
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.patchify import patchify
from hybrid_patch.model.band_whitening import BandWhitening
from hybrid_patch.model.decoder import Decoder
from hybrid_patch.model.encoder import Encoder
from hybrid_patch.model.galileo import GalileoEncoder
from hybrid_patch.model.head import Head, build_head
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.position_means import PositionMeans
from hybrid_patch.model.profiling import DECODER, EMBEDDING, ENCODER, profiled
from hybrid_patch.model.released import ReleasedEncoder
from hybrid_patch.model.tokens import FineGrid, Positions, TokenGrid
from hybrid_patch.model.upsampler import TokenSpec, UpsamplerFactory, factory
from hybrid_patch.model.upsampler.bilinear import Bilinear


class HybridModel(nn.Module):
    """Encoder, decoder, and an upsampler behind each. Only what is behind attention knows the output patch size.

    Args:
        architecture: of the encoder: our own `Encoder` (`flexivit`), or a `ReleasedEncoder`.
        decoder_upsampler: None: the encoder's, or interpolation if that needs pixels.
        predicts_fine: the decoder predicts at the output patch size, and nothing is upsampled behind it.
        base_patch_size: the side of the patch embedding's own kernels; None: the largest processing patch size.
        pixel_hidden_width: of a layer that each pixel's bands go through in the patch embedding; None: there is none.
        patch_statistics: the patch embedding also looks at the mean and deviation of a patch.
        whiten_bands: bands are whitened; see `BandWhitening`.
        centred: patch sizes, and sides in patches, of windows whose tokens are centred; see `PositionMeans`.
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
        pixel_hidden_width: int | None = None,
        patch_statistics: bool = False,
        whiten_bands: bool = False,
        architecture: Architecture = "flexivit",
        centred: Collection[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.whitening = BandWhitening(modalities) if whiten_bands else None
        factors = {s.factor for s in sizes}
        base = base_patch_size or max(s.processing for s in sizes)
        self.encoder: Encoder | ReleasedEncoder
        if architecture == "flexivit":
            self.encoder = Encoder(modalities, encoder, base, pixel_hidden_width, patch_statistics)
        else:
            self.encoder = released_encoder(architecture)(modalities, encoder)
        self.position_means = PositionMeans(modalities, encoder.width, centred) if centred else None
        self.decoder = Decoder(modalities, decoder, encoder.width)
        self.encoder_upsampler = upsampler(TokenSpec(encoder.width, factors, modalities))
        self.predicts_fine = predicts_fine
        if not predicts_fine:
            default = Bilinear if self.encoder_upsampler.needs_pixels else upsampler
            self.decoder_upsampler = (decoder_upsampler or default)(TokenSpec(decoder.width, factors))
        self.head: Head | None = None

    @profiled(EMBEDDING)
    def whitened(self, batch: Batch) -> Batch:
        """A batch as all parts of the model and of its loss must see it, from normalised pixels."""
        return batch.without_dropped_bands() if self.whitening is None else self.whitening.batch(batch)

    @profiled(ENCODER)
    def encode(
        self, patches: Mapping[str, Float[Tensor, "b h w _ p q _"]], batch: Batch
    ) -> tuple[Float[Tensor, "bv n d"], dict[str, TokenGrid]]:
        """Latents of the ENCODE tokens of all views: packed for the decoder, and on grids `[B V, h, w, T, S, D]`."""
        patch_size = next(iter(patches.values())).shape[-2]
        inputs = {**patches, **{name: patchify(pixels, patch_size) for name, pixels in batch.inputs.items()}}
        path_mask = batch.path_mask.get("encoder")
        latents = self.encoder(inputs, batch.valid, batch.encoded.together, batch.timestamps, path_mask)
        grids = _on_grids(latents, batch.encoded, batch.masks, Mask.ENCODE)
        if self.position_means is not None:
            grids = self.position_means(grids, patch_size)
        return latents, grids

    def coarse_tokens(self, batch: Batch, patch_size: int) -> dict[str, TokenGrid]:
        """The encoder's tokens of a batch of normalised pixels, by modality."""
        return self._coarse(self.whitened(batch), patch_size)

    def fine_tokens(self, batch: Batch, sizes: PatchSizes) -> list[FineGrid]:
        """The upsampled tokens of a batch of normalised pixels at all positions, of one modality after the other."""
        batch, factor, grids = self.whitened(batch), sizes.factor, []
        for name, grid in self._coarse(batch, sizes.processing).items():
            everywhere = Positions.everywhere(grid.mask, factor)
            tokens = self.encoder_upsampler(grid, factor, everywhere, batch.guide(name))
            grids.append(FineGrid(tokens, grid.mask, factor))
        return grids

    @property
    def classes(self) -> tuple[str, ...]:
        """What the head predicts; none if that is a number, or without a head."""
        return () if self.head is None else self.head.classes

    def predictions(self, batch: Batch, sizes: PatchSizes) -> Float[Tensor, "b height width k"]:
        """What the head predicts for every pixel of a batch of normalised pixels: see `Head.predictions`."""
        assert self.head is not None
        outputs = self.head([fine.float() for fine in self.fine_tokens(batch, sizes)])
        return self.head.predictions(repeat_cells(outputs, sizes.output))

    def _coarse(self, whitened: Batch, patch_size: int) -> dict[str, TokenGrid]:
        return self.encode({name: patchify(pixels, patch_size) for name, pixels in whitened.pixels.items()}, whitened)[
            1
        ]

    @profiled(DECODER)
    def decode(self, latents: Float[Tensor, "bv n d"], batch: Batch, patch_size: int) -> dict[str, TokenGrid]:
        """Predictions for the DECODE tokens, at the processing patch size."""
        return _on_grids(self.decoder(latents, batch, patch_size), batch.decoded, batch.masks, Mask.DECODE)


def released_encoder(
    architecture: Released,
) -> Callable[[Mapping[str, Modality], schema.Transformer], ReleasedEncoder]:
    """What builds an encoder that others have released. Raises InputError if its package is not installed."""
    if architecture == "galileo":
        return GalileoEncoder
    require_package(architecture)
    from hybrid_patch.model.olmoearth.encoder import OlmoEarthEncoder
    from hybrid_patch.model.olmoearth.locations import LocationEncoder

    return partial(LocationEncoder if architecture == "olmoearth_v1_3" else OlmoEarthEncoder, architecture)


def _on_grids(packed: Float[Tensor, "bv n d"], tokens: MaskedTokens, masks: Masks, value: Mask) -> dict[str, TokenGrid]:
    """Packed tokens of a mask value back on the grids of their modalities."""
    chosen = [masks[name] == value for name in tokens.each]
    parts = tokens.together.scatter(packed).split([mask[0].numel() for mask in chosen], dim=1)
    grids = [TokenGrid(part.unflatten(1, mask.shape[1:]), mask) for mask, part in zip(chosen, parts, strict=True)]
    return dict(zip(tokens.each, grids, strict=True))


def _windows(config: Config) -> set[tuple[int, int]]:
    """The patch sizes of a training, and the sides of its crops in patches."""
    sizes = all_sizes(config.curriculum)
    return {(each.processing, tile_for(config, each) // each.processing) for each in sizes}


def build_model(config: Config, modalities: Mapping[str, Modality], classes: Sequence[str] = ()) -> HybridModel:
    """The model of a run; checkpointing and compiling its blocks changes no parameter and no name.

    `classes` are those that its head predicts, if it has one; without any, it predicts a number.
    """
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
        pixel_hidden_width=config.model.pixel_hidden_width,
        patch_statistics=config.model.patch_statistics,
        whiten_bands=config.model.whiten_bands,
        architecture=config.model.architecture,
        centred=_windows(config) if config.model.centre_positions else (),
    )
    model.head = build_head(config.head, config.model.encoder.width, classes)  # last: other weights stay as they were
    for transformer in (model.encoder.transformer, model.decoder.transformer):
        transformer.gradient_checkpointing = config.runtime.gradient_checkpointing
        if config.runtime.compile_blocks:
            for block in transformer.blocks:
                block.compile()  # each by itself: they are all alike
    return model
