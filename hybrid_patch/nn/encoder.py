"""The encoder: patch embedding, encodings, and transformer blocks over the visible tokens."""

from collections.abc import Mapping

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.data.modality import Modality
from hybrid_patch.nn.encodings import Encodings
from hybrid_patch.nn.patch_embed import PatchEmbed
from hybrid_patch.nn.sequence import flatten, unflatten
from hybrid_patch.nn.transformer import Stack
from hybrid_patch.packing import pack
from hybrid_patch.tokens import TokenGrid


class Encoder(nn.Module):
    """Visible patches of all modalities → one latent token each; hidden and missing patches never enter."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        size: schema.Transformer,
        base_patch_size: int,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        inputs = {name: modality for name, modality in modalities.items() if not modality.decode_only}
        self.embed = nn.ModuleDict({name: PatchEmbed(m, size.width, base_patch_size) for name, m in inputs.items()})
        self.encodings = Encodings(inputs, size.width)
        self.stack = Stack(size, gradient_checkpointing)

    def forward(
        self,
        pixels: Mapping[str, Float[Tensor, "b height width _ _"]],
        visible: Mapping[str, Bool[Tensor, "b _ _ _ _"]],
        timestamps: Int[Tensor, "b t 3"],
        patch_size: int,
    ) -> dict[str, TokenGrid]:
        """Latent tokens per modality, masked by what was visible; a modality that is only decoded has none.

        Args:
            pixels: normalised, zeros where missing, `[B, H, W, T, C]`.
            visible: `[B, h, w, T, S]`, True where the encoder may look.
            timestamps: day, month (0-11), year of the timesteps.
        """
        visible = {name: visible[name] for name in self.embed if name in visible}
        tokens = {
            name: self.embed[name](pixels[name], patch_size)
            + self.encodings(name, (mask.shape[1], mask.shape[2]), patch_size, timestamps)
            for name, mask in visible.items()
        }
        packing = pack(flatten(visible))
        latents = self.stack(packing.gather(flatten(tokens)), None, packing.keep)
        grids = unflatten(packing.scatter(latents), visible)
        return {name: TokenGrid(grids[name], mask) for name, mask in visible.items()}
