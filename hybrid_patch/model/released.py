"""What encoders that others have released have in common, behind the interface of our `Encoder`."""

import abc
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD, Modality
from hybrid_patch.data.packing import Packing
from hybrid_patch.model.profiling import EMBEDDING, profiled

Array = np.ndarray
UNDATED = (1, 5, 2020)
"""Day, month (0-11) and year of images without a date: June."""

Groups = Mapping[str, list[list[str]]]
"""Of each modality and band set: the groups of bands that it makes."""


@runtime_checkable
class Blocks(Protocol):
    """What a training compiles, and recomputes in its backward pass."""

    blocks: nn.ModuleList
    gradient_checkpointing: bool


class ReleasedEncoder(nn.Module, abc.ABC):
    """An encoder with groups of bands of its own: the token of a band set is the mean of its groups' tokens.

    Values reach it in the data's units, whatever statistics normalise them here. Hidden and missing patches enter no
    block.
    """

    def __init__(self, modalities: Mapping[str, Modality], groups: Groups) -> None:
        """`modalities` are those that the encoder reads; each of their band sets makes a group or more."""
        super().__init__()
        self.modalities = dict(modalities)
        self.groups = groups
        self.slots = max(len(each) for sets in groups.values() for each in sets)

    def forward(
        self,
        patches: Mapping[str, Float[Tensor, "b h w _ p q _"]],
        valid: Mapping[str, Bool[Tensor, "b height width _"]],
        visible: Packing,
        timestamps: Int[Tensor, "b t 3"],
        path_mask: Bool[Tensor, "bv depth 2"] | None = None,
    ) -> Float[Tensor, "bv n d"]:
        """Latents of the visible tokens, packed; see `Encoder.forward`."""
        inputs = {name: x for name, x in patches.items() if name in self.modalities}
        parts = [self._in_slots(name, x, valid[name], timestamps) for name, x in inputs.items()]
        tokens, slot_mask = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        packed, mask = visible.gather(tokens), visible.gather(slot_mask)
        if visible.padding_mask is not None:
            mask = mask & visible.padding_mask[..., None]
        full = visible.padding_mask is None and all(len(g) == self.slots for sets in self.groups.values() for g in sets)
        positions = self.positions(inputs, timestamps)
        if positions is not None:
            positions = visible.gather(positions).repeat_interleave(self.slots, dim=1)
        latents = self.attend(packed.flatten(1, 2), None if full else mask.flatten(1), positions, path_mask)
        latents = torch.where(mask[..., None], latents.unflatten(1, (-1, self.slots)), 0)
        return latents.sum(2) / mask.sum(2, keepdim=True).clamp(min=1)

    @property
    @abc.abstractmethod
    def transformer(self) -> Blocks: ...

    @abc.abstractmethod
    def embed(
        self,
        name: str,
        patches: Float[Tensor, "b h w t p q c"],
        valid: Bool[Tensor, "b height width t"],
        dates: Int[Tensor, "b t 3"],
    ) -> dict[str, Float[Tensor, "b h w t d"]]:
        """The tokens of a modality's groups, from normalised patches."""

    @abc.abstractmethod
    def attend(
        self,
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"] | None,
        positions: Float[Tensor, "b n k"] | None,
        path_mask: Bool[Tensor, "b depth 2"] | None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens through the blocks and the last norm; False in the mask is padding, and in the path mask a branch that
        is left out (see `Transformer`)."""

    def positions(
        self, patches: Mapping[str, Float[Tensor, "b h w _ p q _"]], timestamps: Int[Tensor, "b t 3"]
    ) -> Float[Tensor, "b n k"] | None:
        """Where tokens are, for attention that asks; one modality after the other."""
        return None

    def difference(self, settings: Mapping[str, Any]) -> str | None:
        """What the settings beside released weights have otherwise, of that which no weight's shape tells."""
        return None

    @profiled(EMBEDDING)
    def _in_slots(
        self,
        name: str,
        patches: Float[Tensor, "b h w t p q c"],
        valid: Bool[Tensor, "b height width t"],
        timestamps: Int[Tensor, "b _ 3"],
    ) -> tuple[Float[Tensor, "b n slots d"], Bool[Tensor, "b n slots"]]:
        """The tokens of a modality's groups, and which slots of its band sets have one."""
        embedded, sets = self.embed(name, patches, valid, self.dates(name, timestamps)), self.groups[name]
        empty = torch.zeros_like(next(iter(embedded.values())))
        tokens = [token for groups in sets for token in _filled_up([embedded[g] for g in groups], empty, self.slots)]
        stacked = torch.stack(tokens, dim=4).unflatten(4, (-1, self.slots)).flatten(1, 4)
        lengths = torch.tensor([len(groups) for groups in sets], device=patches.device)
        mask = torch.arange(self.slots, device=patches.device) < lengths[:, None]
        return stacked, mask.repeat(stacked.shape[1] // len(sets), 1).expand(len(patches), -1, -1)

    def dates(self, name: str, timestamps: Int[Tensor, "b _ 3"]) -> Int[Tensor, "b t 3"]:
        """The dates of a modality's images."""
        if self.modalities[name].temporal:
            return timestamps
        return torch.tensor(UNDATED, dtype=timestamps.dtype, device=timestamps.device).expand(len(timestamps), 1, 3)


def _filled_up(tokens: list[Tensor], empty: Tensor, slots: int) -> list[Tensor]:
    return tokens + [empty] * (slots - len(tokens))


def units(modality: Modality) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Scale and offset that bring normalised values back to the data's units, by band."""
    if modality.mean is None or modality.std is None:
        return np.ones(modality.channels), np.zeros(modality.channels)
    scale = np.asarray(modality.std) / NORMALISED_STD
    return scale, np.asarray(modality.mean) - NORMALISED_MEAN * scale
