"""The decoder: a query for every hidden token looks at the visible ones."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.data.batch import MaskedTokens
from hybrid_patch.data.modality import Modality
from hybrid_patch.nn.encodings import Encodings
from hybrid_patch.nn.sequence import flatten
from hybrid_patch.nn.transformer import Stack


class Decoder(nn.Module):
    """Predicts hidden tokens by cross-attention alone: queries do not see each other, so its cost is linear in them."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        size: schema.Transformer,
        encoder_width: int,
        runtime: schema.Runtime,
    ) -> None:
        super().__init__()
        self.context = nn.Linear(encoder_width, size.width)
        self.query = nn.Parameter(torch.randn(size.width) * 0.02)
        self.encodings = Encodings(modalities, size.width)
        self.stack = Stack(size, runtime)

    def forward(
        self,
        latents: Float[Tensor, "bv n d"],
        visible: MaskedTokens,
        hidden: MaskedTokens,
        grids: Mapping[str, tuple[int, int]],
        timestamps: Int[Tensor, "b t 3"],
        patch_size: int,
    ) -> Float[Tensor, "bv m _"]:
        """Predictions of the hidden tokens of all modalities, packed.

        Args:
            latents: the encoder's, packed.
            visible: the tokens that they are of.
            hidden: the tokens to predict.
            grids: rows and columns of each modality's token grid.
            timestamps: day, month (0-11), year of the timesteps.
            patch_size: the side of a patch, pixels.
        """
        encodings = {name: self.encodings(name, grid, patch_size, timestamps) for name, grid in grids.items()}
        places = visible.together.gather(flatten({name: encodings[name] for name in visible.each}))
        queries = self.query + hidden.together.gather(flatten({name: encodings[name] for name in hidden.each}))
        return self.stack(queries, self.context(latents) + places, visible.together.keep)
