from collections.abc import Mapping

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.packing import Packing
from hybrid_patch.model.encodings import Encodings
from hybrid_patch.model.patch_embed import PatchEmbed
from hybrid_patch.model.tokens import as_sequence
from hybrid_patch.model.transformer import Transformer


class Encoder(nn.Module):
    """Visible patches of all modalities → one latent token each; hidden and missing patches enter no block."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        size: schema.Transformer,
        base_patch_size: int,
        pixel_hidden_width: int | None,
        patch_statistics: bool,
    ) -> None:
        super().__init__()
        inputs = {name: modality for name, modality in modalities.items() if not modality.decode_only}
        self.embed = nn.ModuleDict(
            {
                name: PatchEmbed(modality, size.width, base_patch_size, pixel_hidden_width, patch_statistics)
                for name, modality in inputs.items()
            }
        )
        self.encodings = Encodings(inputs, size.width)
        self.transformer = Transformer(size)

    def forward(
        self,
        patches: Mapping[str, Float[Tensor, "b h w _ p q _"]],
        valid: Mapping[str, Bool[Tensor, "b height width _"]],
        visible: Packing,
        timestamps: Int[Tensor, "b t 3"],
        path_mask: Bool[Tensor, "bv depth 2"] | None = None,
    ) -> Float[Tensor, "bv n d"]:
        """Latents of the visible tokens, packed, from normalised patches, zeros where not valid.

        `visible` counts the tokens in the order of `patches`; timestamps are day, month (0-11), year; `path_mask`: see
        `Transformer`.
        """
        tokens = {
            name: self.embed[name](x, valid[name])
            + self.encodings(name, (x.shape[1], x.shape[2]), x.shape[4], timestamps)
            for name, x in patches.items()
            if name in self.embed
        }
        return self.transformer(visible.gather(as_sequence(tokens)), None, visible.padding_mask, path_mask)
