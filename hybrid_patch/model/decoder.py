from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import Batch
from hybrid_patch.model.encodings import Encodings
from hybrid_patch.model.profiling import DECODER, profiled
from hybrid_patch.model.tokens import DenseTokens, Positions, as_sequence
from hybrid_patch.model.transformer import Transformer


class Decoder(nn.Module):
    """A query for every hidden token attends to the visible ones, not to other queries: the cost is linear in them."""

    def __init__(self, modalities: Mapping[str, Modality], size: schema.Transformer, encoder_width: int) -> None:
        super().__init__()
        self.context = nn.Linear(encoder_width, size.width)
        self.query = nn.Parameter(torch.randn(size.width) * 0.02)
        self.encodings = Encodings(modalities, size.width)
        self.transformer = Transformer(size)

    def forward(self, latents: Float[Tensor, "bv n d"], batch: Batch, patch_size: int) -> Float[Tensor, "bv m w"]:
        """Predictions of the batch's DECODE tokens, packed, from the latents of its ENCODE tokens, packed."""
        encodings = {name: self._encodings(name, batch, patch_size) for name in batch.masks}
        hidden = batch.decoded
        queries = hidden.together.gather(as_sequence({name: encodings[name] for name in hidden.each}))
        return self._predict(queries, latents, batch, encodings)

    @profiled(DECODER)
    def fine(
        self, latents: Float[Tensor, "bv n d"], batch: Batch, positions: Mapping[str, Positions], sizes: PatchSizes
    ) -> dict[str, DenseTokens]:
        """Predictions of fine tokens at some positions of each modality, `[B V, n, p, W]`."""
        queries = {
            name: self.encodings.fine(name, _sides(name, batch), sizes, where, batch.timestamps)
            for name, where in positions.items()
        }
        encodings = {name: self._encodings(name, batch, sizes.processing) for name in batch.encoded.each}
        together = torch.cat([each.flatten(1, 2) for each in queries.values()], dim=1)
        predicted = self._predict(together, latents, batch, encodings)
        parts = predicted.split([each.shape[1] * each.shape[2] for each in queries.values()], dim=1)
        dense = [DenseTokens(part.unflatten(1, x.shape[1:3])) for x, part in zip(queries.values(), parts, strict=True)]
        return dict(zip(queries, dense, strict=True))

    def _encodings(self, name: str, batch: Batch, patch_size: int) -> Float[Tensor, "b h w _ s d"]:
        return self.encodings(name, _sides(name, batch), patch_size, batch.timestamps)

    def _predict(
        self,
        queries: Float[Tensor, "bv m w"],
        latents: Float[Tensor, "bv n d"],
        batch: Batch,
        encodings: Mapping[str, Float[Tensor, "b _ _ _ _ w"]],
    ) -> Float[Tensor, "bv m w"]:
        visible = batch.encoded.together
        keys = visible.gather(as_sequence({name: encodings[name] for name in batch.encoded.each}))
        context, path_mask = self.context(latents) + keys, batch.path_mask.get("decoder")
        return self.transformer(self.query + queries, context, visible.padding_mask, path_mask)


def _sides(name: str, batch: Batch) -> tuple[int, int]:
    _, h, w, *_ = batch.masks[name].shape
    return h, w
