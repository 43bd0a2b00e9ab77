"""The decoder: a query for every hidden token attends to the visible ones."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import MaskedTokens
from hybrid_patch.model.encodings import Encodings
from hybrid_patch.model.tokens import Positions, as_sequence
from hybrid_patch.model.transformer import Transformer


class Decoder(nn.Module):
    """Predicts hidden tokens by cross-attention alone: queries do not see each other, so its cost is linear in them."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        size: schema.Transformer,
        encoder_width: int,
    ) -> None:
        super().__init__()
        self.context = nn.Linear(encoder_width, size.width)
        self.query = nn.Parameter(torch.randn(size.width) * 0.02)
        self.encodings = Encodings(modalities, size.width)
        self.transformer = Transformer(size)

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
            visible: the tokens of these latents.
            hidden: the tokens to predict.
            grids: rows and columns of each modality's token grid.
            timestamps: day, month (0-11), year of the timesteps.
            patch_size: the side of a patch, pixels.
        """
        encodings = {name: self.encodings(name, grid, patch_size, timestamps) for name, grid in grids.items()}
        queries = hidden.together.gather(as_sequence({name: encodings[name] for name in hidden.each}))
        return self._predict(queries, latents, visible, encodings)

    def fine(
        self,
        latents: Float[Tensor, "bv n d"],
        visible: MaskedTokens,
        positions: Mapping[str, Positions],
        factor: int,
        grids: Mapping[str, tuple[int, int]],
        timestamps: Int[Tensor, "b t 3"],
        patch_size: int,
    ) -> dict[str, Float[Tensor, "bv _ p _"]]:
        """Predictions of tokens f times as fine, at some positions of each modality, from the coarse latents.

        Args:
            positions: of the fine tokens to predict, in the coarse cells.
            grids, patch_size: of the coarse tokens; the others as above.
        """
        fine_encodings = {
            name: self.encodings.fine(name, grids[name], patch_size, factor, where, timestamps)
            for name, where in positions.items()
        }
        encodings = {name: self.encodings(name, grids[name], patch_size, timestamps) for name in visible.each}
        queries = torch.cat([each.flatten(1, 2) for each in fine_encodings.values()], dim=1)
        predicted = self._predict(queries, latents, visible, encodings)
        parts = predicted.split([each.shape[1] * each.shape[2] for each in fine_encodings.values()], dim=1)
        return {
            name: part.unflatten(1, each.shape[1:3])
            for (name, each), part in zip(fine_encodings.items(), parts, strict=True)
        }

    def _predict(
        self,
        queries: Float[Tensor, "bv m w"],
        latents: Float[Tensor, "bv n d"],
        visible: MaskedTokens,
        encodings: Mapping[str, Float[Tensor, "b _ _ _ _ w"]],
    ) -> Float[Tensor, "bv m w"]:
        """Decode queries by cross-attention to the visible latents; both carry their encodings."""
        keys = visible.together.gather(as_sequence({name: encodings[name] for name in visible.each}))
        return self.transformer(self.query + queries, self.context(latents) + keys, visible.together.padding_mask)
