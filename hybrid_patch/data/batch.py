"""A batch as the training step sees it."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from hybrid_patch.tokens import repeat_cells


@dataclasses.dataclass(frozen=True)
class Batch:
    """The samples of one step, cropped, normalised and masked.

    Attributes:
        pixels: per modality `[B, H, W, T, C]`, normalised, zeros where missing.
        valid: per modality `[B, H, W, T]`, False where nothing was measured.
        timestamps: `[B, T, 3]` day, month (0-11), year.
        views: maskings of the batch, each with `Mask` values per modality `[B, h, w, T, S]` on the coarse grid.
        skipped: what was wrong with each broken sample that another stands in for.
    """

    pixels: Mapping[str, Float[Tensor, "b height width _ _"]]
    valid: Mapping[str, Bool[Tensor, "b height width _"]]
    timestamps: Int[Tensor, "b t 3"]
    views: tuple[Mapping[str, Int8[Tensor, "b _ _ _ _"]], ...]
    skipped: tuple[str, ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor changed: moved to a device, pinned."""
        return Batch(
            {name: change(x) for name, x in self.pixels.items()},
            {name: change(x) for name, x in self.valid.items()},
            change(self.timestamps),
            tuple({name: change(x) for name, x in view.items()} for view in self.views),
            self.skipped,
        )

    def pin_memory(self) -> "Batch":
        """For torch's DataLoader."""
        return self.map(Tensor.pin_memory)

    def selected(self, view: int, name: str, value: int, processing: int, output: int) -> Bool[Tensor, "b h w t s"]:
        """Output patches of a modality with a mask value in a view, all of whose pixels are valid.

        `[B, H/output, W/output, T, S]`; the mask travels by nearest neighbour.
        """
        masked = repeat_cells(self.views[view][name] == value, processing // output)
        valid = self.valid[name].unflatten(1, (-1, output)).unflatten(3, (-1, output)).all(4).all(2)
        return masked & valid[..., None]


def stack(batches: list[Batch]) -> Batch:
    """Batches of the same modalities and views as one (of all processes, for a test; of samples)."""
    first = batches[0]
    return Batch(
        {name: torch.cat([b.pixels[name] for b in batches]) for name in first.pixels},
        {name: torch.cat([b.valid[name] for b in batches]) for name in first.valid},
        torch.cat([b.timestamps for b in batches]),
        tuple(
            {name: torch.cat([b.views[v][name] for b in batches]) for name in view}
            for v, view in enumerate(first.views)
        ),
        tuple(message for b in batches for message in b.skipped),
    )
