"""The location tokens of OlmoEarth v1.3."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid_patch.config.architecture import LOCATION_PATCH
from hybrid_patch.data.packing import Packing, take_rows
from hybrid_patch.errors import InputError
from hybrid_patch.model.olmoearth.encoder import OlmoEarthEncoder


class LocationEncoder(OlmoEarthEncoder):
    """v1.3, which has its own answer to small patches: patches of 8 pixels, and then a token of each location.

    A query for each location, of any side that divides 8, reads the tokens of the patches and looks at the other
    locations. The tokens of all modalities, timesteps and band sets of a location are this one. A patch is visible if
    any pixel of it is.
    """

    def forward(
        self,
        patches: Mapping[str, Float[Tensor, "b h w _ p q _"]],
        valid: Mapping[str, Bool[Tensor, "b height width _"]],
        visible: Packing,
        timestamps: Int[Tensor, "b t 3"],
        path_mask: Bool[Tensor, "bv depth 2"] | None = None,
    ) -> Float[Tensor, "bv n d"]:
        inputs = {name: x for name, x in patches.items() if name in self.modalities}
        name, first = next(iter(inputs.items()))
        h, w, size = *first.shape[1:3], first.shape[-2]
        ratio, rest = divmod(LOCATION_PATCH, size)
        if rest or h % ratio or w % ratio:
            sides = f"{h * size} × {w * size} pixels at patch size {size}"
            raise InputError(
                f"model.architecture=olmoearth_v1_3: {sides}: its patches have 8 pixels; try multiples of 8"
            )
        merge = "b (h i) (w j) t p q c -> b h w t (i p) (j q) c"
        merged = {n: rearrange(x, merge, i=ratio, j=ratio) for n, x in inputs.items()}
        packing = self._merged(visible, inputs, ratio)
        tokens = super().forward(merged, valid, packing, timestamps, path_mask)
        positions = self.positions(merged, timestamps)
        assert positions is not None
        locations, _, _ = self.network.attention_pooler(
            tokens,
            packing.gather(positions)[..., 1:],
            packing.padding_mask,
            spatial_grid=(h // ratio, w // ratio),
            patch_size=LOCATION_PATCH,
            gsd_ratio=self._step(name, LOCATION_PATCH) * self.config.rope_coordinate_scale,
            location_query_patch_size=size,
        )
        cells = torch.arange(h * w, device=first.device)
        number = torch.cat([cells.repeat_interleave(x.shape[3] * len(self.groups[n])) for n, x in inputs.items()])
        return take_rows(locations.flatten(1, 2), number[visible.index])

    def _merged(self, visible: Packing, patches: Mapping[str, Tensor], ratio: int) -> Packing:
        """All patches of 8 pixels, those that are hidden as padding: their number depends on no mask."""
        samples, width = visible.index.shape
        lengths = {n: x.shape[1] * x.shape[2] * x.shape[3] * len(self.groups[n]) for n, x in patches.items()}
        length = sum(lengths.values()) // ratio**2
        everything = torch.arange(length, device=visible.index.device).expand(samples, length)
        if width == visible.length and visible.padding_mask is None:
            return Packing(everything, None, length)
        mask = visible.scatter(torch.ones(samples, width, 1, device=visible.index.device))[..., 0] > 0
        each = []
        for part, x in zip(mask.split(list(lengths.values()), dim=1), patches.values(), strict=True):
            cells = rearrange(
                part,
                "b (h i w j ts) -> b (h w ts) (i j)",
                i=ratio,
                j=ratio,
                h=x.shape[1] // ratio,
                w=x.shape[2] // ratio,
            )
            each.append(cells.any(-1))
        return Packing(everything, torch.cat(each, dim=1), length)
