import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from hybrid_patch.data.masking import Mask
from hybrid_patch.data.packing import Packing, pack
from hybrid_patch.data.patchify import patchify, repatchify

Change = Callable[[Tensor], Tensor]
Masks = Mapping[str, Int8[Tensor, "bv _ _ _ _"]]


@dataclasses.dataclass(frozen=True)
class MaskedTokens:
    """Which tokens of the coarse grids have one mask value; made with the batch, so that no step waits for counts."""

    together: Packing  # on all grids as one sequence, one modality after the other
    each: Mapping[str, Packing]  # on the grid of each modality, flattened

    @classmethod
    def of(cls, masks: Masks, value: Mask) -> "MaskedTokens":
        """The tokens with a mask value."""
        chosen = {name: (mask == value).flatten(1) for name, mask in masks.items()}
        return cls(pack(torch.cat(list(chosen.values()), dim=1)), {name: pack(mask) for name, mask in chosen.items()})


def by_role(masks: Masks, inputs: Collection[str]) -> tuple[MaskedTokens, MaskedTokens]:
    """The ENCODE tokens, of the modalities that the encoder takes, and the DECODE tokens."""
    encoded = {name: mask for name, mask in masks.items() if name in inputs}
    return MaskedTokens.of(encoded, Mask.ENCODE), MaskedTokens.of(masks, Mask.DECODE)


@dataclasses.dataclass(frozen=True)
class QuerySampling:
    """The random numbers of a step's loss, where it draws queries (`loss.max_queries`); the same in all processes."""

    subpixels: Int[Tensor, " subpixels"]  # the f^2 subpixels of a cell in random order
    strata: Float[Tensor, " k"]  # uniform, one for each of K cells to be drawn


class Guide(NamedTuple):
    """The pixels that the tokens of one modality were made of, for an upsampler that needs them."""

    name: str
    pixels: Float[Tensor, "b height width _ _"]  # normalised
    valid: Bool[Tensor, "b height width _"]
    guide_mask: Bool[Tensor, "bv height width _"] | None  # pixels that it may look at; None: all


@dataclasses.dataclass(frozen=True)
class Taught:
    """A teacher's numbers for a window of each crop."""

    numbers: Mapping[str, Float[Tensor, "b side side _ _ _"]]  # per modality `[B, H, W, T, S, K]`
    corner: Int[Tensor, "b 2"]  # the window's row and column in the crop, pixels


@dataclasses.dataclass(frozen=True)
class Batch:
    """The samples of one step, cropped, normalised and masked; each has V maskings, its views, in succession.

    Attributes:
        pixels: per modality `[B, H, W, T, C]`, normalised, zeros where missing.
        timestamps: `[B, T, 3]` day, month (0-11), year.
        masks: per modality `[B V, h, w, T, S]`, `Mask` values on the coarse grid.
        encoded, decoded: the ENCODE tokens, of the modalities that the encoder takes, and the DECODE tokens.
        guide_mask: per modality `[B V, H, W, T]`, the pixels that upsamplers may look at; all of a modality not in it.
        band_mask: per modality `[B, C]`, the bands that the encoder and its upsampler may look at, while targets have
            all; all of a modality not in it.
        inputs: `pixels` without the bands that a mask drops, for each modality that has one.
        path_mask: per stack of blocks, `encoder` and `decoder`, `[B V, depth, 2]`: which residual branches, attention
            and MLP, are not left out; all of a stack not in it.
        skipped: the error of each broken sample that was replaced by another.
        taught: with `target=self`, what the teacher said.
        labels: with `target=labels`, a class (`UNLABELLED`: none) or a number (NaN: none) for every pixel.
    """

    pixels: Mapping[str, Float[Tensor, "b height width _ _"]]
    valid: Mapping[str, Bool[Tensor, "b height width _"]]
    timestamps: Int[Tensor, "b t 3"]
    masks: Masks
    encoded: MaskedTokens
    decoded: MaskedTokens
    query_sampling: QuerySampling
    guide_mask: Mapping[str, Bool[Tensor, "bv height width _"]] = dataclasses.field(default_factory=dict)
    band_mask: Mapping[str, Bool[Tensor, "b _"]] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Float[Tensor, "b height width _ _"]] = dataclasses.field(default_factory=dict)
    path_mask: Mapping[str, Bool[Tensor, "bv _ 2"]] = dataclasses.field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    taught: Taught | None = None
    labels: Int[Tensor, "b height width"] | Float[Tensor, "b height width"] | None = None

    @property
    def views(self) -> int:
        return len(next(iter(self.masks.values()))) // len(self.timestamps)

    def map(self, change: Change) -> "Batch":
        """The batch with every tensor changed: moved to a device, pinned."""
        changed: Batch = _changed(self, change)
        return changed

    def split(self, parts: int) -> "list[Batch]":
        """Split into batches of equally many samples, in order. Raises ValueError if they cannot be divided evenly."""
        size, rest = divmod(len(self.timestamps), parts)
        if rest:
            raise ValueError(f"{len(self.timestamps)} samples: cannot be split into {parts} parts")
        return [self._samples(slice(start, start + size)) for start in range(0, size * parts, size)]

    def _samples(self, which: slice) -> "Batch":
        rows = slice(which.start * self.views, which.stop * self.views)
        parts = {
            name: _changed(getattr(self, name), lambda x: x[which])
            for name in ("pixels", "valid", "timestamps", "band_mask", "inputs", "taught", "labels")
        }
        for name in ("masks", "encoded", "decoded", "guide_mask", "path_mask"):
            parts[name] = _changed(getattr(self, name), lambda x: x[rows])
        return dataclasses.replace(self, **parts, skipped=())

    def without_dropped_bands(self) -> "Batch":
        """The batch with `inputs`: zeros in bands that a mask drops."""
        inputs = {name: self.pixels[name] * mask[:, None, None, None] for name, mask in self.band_mask.items()}
        return dataclasses.replace(self, inputs=inputs)

    def guide(self, name: str) -> Guide:
        return Guide(name, self.inputs.get(name, self.pixels[name]), self.valid[name], self.guide_mask.get(name))

    def pin_memory(self) -> "Batch":
        """For torch's DataLoader."""
        return self.map(Tensor.pin_memory)

    def valid_patches(self, name: str, cells: Packing, output: int) -> Bool[Tensor, "bv n subpixels"]:
        """Which output patches in some cells of a modality's grid have only valid pixels."""
        valid, mask = self.valid[name], self.masks[name]
        patches = patchify(valid, valid.shape[1] // mask.shape[1])
        whole = repatchify(patches[..., None], output).all(-1).flatten(1, 3)
        return cells.over(mask.shape[-1]).gather(whole) & cells.valid()[..., None]


def _changed(value: Any, change: Change) -> Any:
    """A tensor, or a mapping or dataclass with tensors anywhere in it, with each of them changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _changed(each, change) for name, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **_changed(fields, change))
    return value
