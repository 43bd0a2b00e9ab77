"""The decoder: a query for every hidden token looks at the visible ones."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.data.modality import Modality
from hybrid_patch.nn.encodings import Encodings
from hybrid_patch.nn.sequence import flatten, unflatten
from hybrid_patch.nn.transformer import Stack
from hybrid_patch.packing import pack
from hybrid_patch.tokens import TokenGrid


class Decoder(nn.Module):
    """Predicts hidden tokens by cross-attention alone: queries do not see each other, so its cost is linear in them."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        size: schema.Transformer,
        encoder_width: int,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.context = nn.Linear(encoder_width, size.width)
        self.query = nn.Parameter(torch.randn(size.width) * 0.02)
        self.encodings = Encodings(modalities, size.width)
        self.stack = Stack(size, gradient_checkpointing)

    def forward(
        self,
        latents: Mapping[str, TokenGrid],
        hidden: Mapping[str, Bool[Tensor, "b _ _ _ _"]],
        timestamps: Int[Tensor, "b t 3"],
        patch_size: int,
    ) -> dict[str, TokenGrid]:
        """Predicted tokens per modality at the processing patch size, masked by what was to be decoded.

        Args:
            latents: the encoder's.
            hidden: `[B, h, w, T, S]`, True where a token is to be predicted.
        """
        encodings = {
            name: self.encodings(name, (mask.shape[1], mask.shape[2]), patch_size, timestamps)
            for name, mask in hidden.items()
        }
        visible = pack(flatten({name: grid.mask for name, grid in latents.items()}))
        context = self.context(visible.gather(flatten({name: grid.tokens for name, grid in latents.items()})))
        context = context + visible.gather(flatten({name: encodings[name] for name in latents}))
        queries = pack(flatten(hidden))
        predictions = self.stack(self.query + queries.gather(flatten(encodings)), context, visible.keep)
        grids = unflatten(queries.scatter(predictions), hidden)
        return {name: TokenGrid(grids[name], mask) for name, mask in hidden.items()}
