"""A batch as the training step sees it."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from hybrid_patch.data.masking import Mask
from hybrid_patch.data.packing import Packing, pack
from hybrid_patch.data.patchify import patchify, repatchify

Change = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class MaskedTokens:
    """Which tokens of the coarse grids have one mask value.

    Worked out where batches are made, so that a training step waits for no count from its device.

    Attributes:
        together: on all grids as one sequence, one modality after the other.
        each: on the grid of each modality, flattened.
    """

    together: Packing
    each: Mapping[str, Packing]

    @classmethod
    def of(cls, masks: Mapping[str, Int8[Tensor, "bv _ _ _ _"]], value: Mask) -> "MaskedTokens":
        """Those with a value."""
        chosen = {name: (mask == value).flatten(1) for name, mask in masks.items()}
        return cls(pack(torch.cat(list(chosen.values()), dim=1)), {name: pack(mask) for name, mask in chosen.items()})

    def rows(self, which: slice) -> "MaskedTokens":
        """Of some of the samples."""
        return MaskedTokens(self.together.rows(which), {name: each.rows(which) for name, each in self.each.items()})

    def map(self, change: Change) -> "MaskedTokens":
        """With every tensor changed."""
        return MaskedTokens(
            self.together.map(change), {name: packing.map(change) for name, packing in self.each.items()}
        )


@dataclasses.dataclass(frozen=True)
class QuerySampling:
    """The random numbers of a step's loss, where it draws queries (`loss.max_queries`); the same in all processes.

    Attributes:
        subpixels: the f^2 subpixels of a cell in random order.
        strata: `[K]` uniform numbers, one for each of K cells to be drawn.
    """

    subpixels: Int[Tensor, " subpixels"]
    strata: Float[Tensor, " k"]


class Guide(NamedTuple):
    """What the tokens of one modality were made of, for an upsampler that looks at pixels.

    Attributes:
        name: of the modality.
        pixels: `[B, H, W, T, C]`, normalised.
        valid: `[B, H, W, T]`, False where nothing was measured.
        guide_mask: `[B V, H, W, T]` the pixels that it may look at; None: all.
    """

    name: str
    pixels: Float[Tensor, "b height width _ _"]
    valid: Bool[Tensor, "b height width _"]
    guide_mask: Bool[Tensor, "bv height width _"] | None


@dataclasses.dataclass(frozen=True)
class Batch:
    """The samples of one step, cropped, normalised and masked; each has V maskings, its views, in succession.

    Attributes:
        pixels: per modality `[B, H, W, T, C]`, normalised, zeros where missing.
        valid: per modality `[B, H, W, T]`, False where nothing was measured.
        timestamps: `[B, T, 3]` day, month (0-11), year.
        masks: per modality `[B V, h, w, T, S]`, `Mask` values on the coarse grid.
        encoded: the ENCODE tokens, of the modalities that the encoder takes.
        decoded: the DECODE tokens.
        query_sampling: the random numbers by which the loss samples its queries.
        guide_mask: per modality `[B V, H, W, T]`, the pixels that upsamplers may look at; all of a modality that is not
            in it.
        skipped: what was wrong with each broken sample that another stands in for.
    """

    pixels: Mapping[str, Float[Tensor, "b height width _ _"]]
    valid: Mapping[str, Bool[Tensor, "b height width _"]]
    timestamps: Int[Tensor, "b t 3"]
    masks: Mapping[str, Int8[Tensor, "bv _ _ _ _"]]
    encoded: MaskedTokens
    decoded: MaskedTokens
    query_sampling: QuerySampling
    guide_mask: Mapping[str, Bool[Tensor, "bv height width _"]] = dataclasses.field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        pixels: Mapping[str, Float[Tensor, "b height width _ _"]],
        valid: Mapping[str, Bool[Tensor, "b height width _"]],
        timestamps: Int[Tensor, "b t 3"],
        masks: Mapping[str, Int8[Tensor, "bv _ _ _ _"]],
        inputs: Collection[str],
        query_sampling: QuerySampling,
        guide_mask: Mapping[str, Bool[Tensor, "bv height width _"]] | None = None,
        skipped: tuple[str, ...] = (),
    ) -> "Batch":
        """The batch of these tensors; `inputs` names the modalities that the encoder takes."""
        encoded = MaskedTokens.of({name: mask for name, mask in masks.items() if name in inputs}, Mask.ENCODE)
        decoded = MaskedTokens.of(masks, Mask.DECODE)
        return cls(pixels, valid, timestamps, masks, encoded, decoded, query_sampling, guide_mask or {}, skipped)

    @property
    def views(self) -> int:
        """Maskings per sample, V."""
        return len(next(iter(self.masks.values()))) // len(self.timestamps)

    def map(self, change: Change) -> "Batch":
        """The batch with every tensor changed: moved to a device, pinned."""
        return Batch(
            {name: change(x) for name, x in self.pixels.items()},
            {name: change(x) for name, x in self.valid.items()},
            change(self.timestamps),
            {name: change(x) for name, x in self.masks.items()},
            self.encoded.map(change),
            self.decoded.map(change),
            QuerySampling(change(self.query_sampling.subpixels), change(self.query_sampling.strata)),
            {name: change(x) for name, x in self.guide_mask.items()},
            self.skipped,
        )

    def split(self, parts: int) -> "list[Batch]":
        """So many batches of as many samples each, in order, which share the query sampling.

        Raises ValueError if the samples cannot be shared out.
        """
        size, rest = divmod(len(self.timestamps), parts)
        if rest:
            raise ValueError(f"{len(self.timestamps)} samples: cannot be split into {parts} parts")
        return [self._samples(slice(start, start + size)) for start in range(0, size * parts, size)]

    def _samples(self, which: slice) -> "Batch":
        rows = slice(which.start * self.views, which.stop * self.views)
        return Batch(
            {name: x[which] for name, x in self.pixels.items()},
            {name: x[which] for name, x in self.valid.items()},
            self.timestamps[which],
            {name: x[rows] for name, x in self.masks.items()},
            self.encoded.rows(rows),
            self.decoded.rows(rows),
            self.query_sampling,
            {name: x[rows] for name, x in self.guide_mask.items()},
        )

    def guide(self, name: str) -> Guide:
        """What the tokens of a modality were made of."""
        return Guide(name, self.pixels[name], self.valid[name], self.guide_mask.get(name))

    def pin_memory(self) -> "Batch":
        """For torch's DataLoader."""
        return self.map(Tensor.pin_memory)

    def valid_patches(self, name: str, cells: Packing, output: int) -> Bool[Tensor, "bv n subpixels"]:
        """`[B V, n, f^2]`: the output patches in some cells of a modality's grid all of whose pixels are valid."""
        valid, mask = self.valid[name], self.masks[name]
        patches = patchify(valid, valid.shape[1] // mask.shape[1])
        whole = repatchify(patches[..., None], output).all(-1).flatten(1, 3)
        return cells.over(mask.shape[-1]).gather(whole) & cells.valid()[..., None]
