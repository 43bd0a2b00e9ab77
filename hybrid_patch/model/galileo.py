"""The encoder of Galileo (Tseng et al. 2025, "Galileo: Learning Global & Local Features of Many Remote Sensing
Modalities"), whose released weights embed patches of 1 to 8 pixels."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Set
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from hybrid_patch.config import schema
from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD, Modality
from hybrid_patch.data.patchify import patchify
from hybrid_patch.errors import InputError
from hybrid_patch.model.encodings import REFERENCE_GSD
from hybrid_patch.model.patch_embed import kernel_resize
from hybrid_patch.model.released import ReleasedEncoder, units
from hybrid_patch.model.transformer import Transformer

BASE = 8
"""The side of its kernels."""
SMALLEST_SUM = 1e-6
"""Of red and near infrared, in digital numbers."""
Kind = Literal["s_t", "sp", "t", "st"]
"""What tokens vary with: space and time, space, time, nothing."""
GROUPS: dict[Kind, dict[str, int]] = {
    "s_t": {"S1": 2, "S2_RGB": 3, "S2_Red_Edge": 3, "S2_NIR_10m": 1, "S2_NIR_20m": 1, "S2_SWIR": 2, "NDVI": 1},
    "sp": {"SRTM": 2, "DW": 9, "WC": 5},
    "t": {"ERA5": 2, "TC": 3, "VIIRS": 1},
    "st": {"LS": 1, "location": 3, "DW_static": 9, "WC_static": 5},
}
"""The groups of channels that share a token, in the order of their encodings, and their numbers of channels."""
EMBEDDINGS: dict[Kind, str] = {"s_t": "space_time_embed", "sp": "space_embed", "t": "time_embed", "st": "static_embed"}


class Bands(NamedTuple):
    """The bands of a group, with the statistics of the released model: dB, digital numbers of L2A, metres, degrees."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


BANDS: dict[str, Bands] = {
    "S1": Bands(("VV", "VH"), (-11.728724, -18.855582), (4.887145775, 5.73027032)),
    "S2_RGB": Bands(("B2", "B3", "B4"), (1395.340873, 1338.402692, 1343.098838), (917.704144, 913.298842, 1092.678724)),
    "S2_Red_Edge": Bands(
        ("B5", "B6", "B7"), (1543.860798, 2186.202207, 2525.093285), (1047.220608, 1048.010116, 1143.690303)
    ),
    "S2_NIR_10m": Bands(("B8",), (2410.337719,), (1098.979178,)),
    "S2_NIR_20m": Bands(("B8A",), (2750.285465,), (1204.472755,)),
    "S2_SWIR": Bands(("B11", "B12"), (2234.9111, 1474.531127), (1145.977406, 980.242984)),
    "NDVI": Bands(("B8", "B4"), (0.28921165,), (0.272093902,)),
    "SRTM": Bands(("ELEVATION", "SLOPE"), (673.015282, 5.930093), (983.06973, 8.167407)),
}
"""The groups that images of the data can make."""


def sines(position: Real[Tensor, " n"], width: int) -> Float[Tensor, "n width"]:
    """Sines, then cosines, at `width / 2` frequencies `10000^(-i / (2 width))`: Galileo's own exponent."""
    frequency = 10000.0 ** (-torch.arange(width // 2, device=position.device, dtype=torch.float64) / (2 * width))
    angle = position.double()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


class GalileoNetwork(nn.Module):
    """The network, by its own groups. Parameters have the names of the released ones, but for those of the blocks."""

    def __init__(self, size: schema.Transformer) -> None:
        super().__init__()
        self.quarter = size.width // 4
        for kind, groups in GROUPS.items():
            spatial = kind in ("s_t", "sp")
            made = {
                name: nn.ModuleDict({"proj": nn.Conv2d(channels, size.width, BASE, BASE)})
                if spatial
                else nn.Linear(channels, size.width)
                for name, channels in groups.items()
            }
            self.register_module(EMBEDDINGS[kind], nn.ModuleDict(made))
            encoding = nn.Parameter(torch.randn(len(groups), self.quarter) * 0.02)
            self.register_parameter(f"{kind}_channel_embed", encoding)
        self.transformer = Transformer(size)
        turn = torch.arange(12)[:, None] * (2 * math.pi / 12)
        month = torch.cat([x.expand(-1, self.quarter // 2) for x in (turn.sin(), turn.cos())], dim=1)
        self.register_buffer("month", month, persistent=False)

    def train_only(self, made: Set[str]) -> None:
        """Weights of groups that the data do not make are not trained, as nothing says how."""
        for kind, groups in GROUPS.items():
            self.get_parameter(f"{kind}_channel_embed").requires_grad_(not made.isdisjoint(groups))
            for group in groups:
                self.get_submodule(f"{EMBEDDINGS[kind]}.{group}").requires_grad_(group in made)

    def of_patches(self, kind: Kind, group: str, patches: Float[Tensor, "*n p q c"]) -> Float[Tensor, "*n d"]:
        """The embedding of a group's patches."""
        projection = self.get_submodule(f"{EMBEDDINGS[kind]}.{group}.proj")
        assert isinstance(projection, nn.Conv2d)
        kernel, side = projection.weight, patches.shape[-2]
        if side != BASE:
            resize = kernel_resize(BASE, side, kernel.dtype, kernel.device, bicubic=True)
            kernel = (kernel.flatten(2) @ resize).unflatten(-1, (side, side))
        return F.linear(patches.flatten(-3), rearrange(kernel, "d c p q -> d (p q c)"), projection.bias)

    def of_values(self, kind: Kind, group: str, values: Float[Tensor, "*n c"]) -> Float[Tensor, "*n d"]:
        """The embedding of a group that does not vary in space."""
        embedded: Tensor = self.get_submodule(f"{EMBEDDINGS[kind]}.{group}")(values)
        return embedded

    def encoding(
        self, kind: Kind, group: str, months: Int[Tensor, "b t"] | None, grid: tuple[int, int] | None, step: float = 1.0
    ) -> Float[Tensor, "_ h w _ d"]:
        """The encoding of a group's tokens, in quarters: group, position in the series, month, place.

        Without months or grid, these quarters are zeros and the axes have length 1. A cell is `step` × 10 m wide.
        """
        device, (h, w) = self.get_buffer("month").device, grid or (1, 1)
        order = month = place = torch.zeros(1, 1, 1, 1, self.quarter, device=device)
        if months is not None:
            order = sines(torch.arange(months.shape[1], device=device), self.quarter)[None, None, None]
            month = self.get_buffer("month")[months][:, None, None]
        if grid is not None:
            rows, columns = (sines(torch.arange(n, device=device) * step, self.quarter // 2) for n in grid)
            place = torch.cat([columns[None].expand(h, w, -1), rows[:, None].expand(h, w, -1)], dim=-1)[
                None, :, :, None
            ]
        of_group = self.get_parameter(f"{kind}_channel_embed")[list(GROUPS[kind]).index(group)]
        shape = (len(month), h, w, order.shape[3], self.quarter)
        return torch.cat([part.expand(shape) for part in (of_group, order, month, place)], dim=-1)


class GalileoEncoder(ReleasedEncoder):
    """Galileo behind the interface of our `Encoder`: the token of a band set is the mean of its groups' tokens.

    A band set makes the groups all of whose bands it has, told by name (B2 or B02, in any case), and the NDVI of its
    red and near infrared; other bands are not seen. Values enter by Galileo's own statistics, whatever the data's are.
    Raises InputError for a band set that makes no group.
    """

    def __init__(self, modalities: Mapping[str, Modality], size: schema.Transformer) -> None:
        inputs = {name: modality for name, modality in modalities.items() if not modality.decode_only}
        super().__init__(inputs, {name: [_groups(name, bands) for bands in m.band_sets] for name, m in inputs.items()})
        self.network = GalileoNetwork(size)
        for name, modality in inputs.items():
            for part, values in zip(("scale", "offset"), units(modality), strict=True):
                self.register_buffer(f"{name}_{part}", torch.tensor(values, dtype=torch.float32), persistent=False)
        self.network.train_only({group for sets in self.groups.values() for group in itertools.chain(*sets)})

    @property
    def transformer(self) -> Transformer:
        return self.network.transformer

    def attend(
        self,
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"] | None,
        positions: Float[Tensor, "b n k"] | None,
        path_mask: Bool[Tensor, "b depth 2"] | None,
    ) -> Float[Tensor, "b n d"]:
        return self.transformer(tokens, None, mask, path_mask)

    def embed(
        self,
        name: str,
        patches: Float[Tensor, "b h w t p q c"],
        valid: Bool[Tensor, "b height width t"],
        dates: Int[Tensor, "b t 3"],
    ) -> dict[str, Float[Tensor, "b h w t d"]]:
        modality = self.modalities[name]
        values = patches * self.get_buffer(f"{name}_scale") + self.get_buffer(f"{name}_offset")
        visible = patchify(valid, patches.shape[-2])[..., None]
        numbers = {_plain(band): number for number, band in enumerate(modality.bands)}
        grid, step = (patches.shape[1], patches.shape[2]), patches.shape[-2] * modality.gsd / REFERENCE_GSD
        tokens = {}
        for group in itertools.chain(*self.groups[name]):
            chosen = torch.where(visible, _normalised(group, values, numbers), 0)
            kind: Kind = "s_t" if group in GROUPS["s_t"] else "sp"
            encoding = self.network.encoding(kind, group, dates[..., 1] if kind == "s_t" else None, grid, step)
            tokens[group] = self.network.of_patches(kind, group, chosen) + encoding
        return tokens


def _normalised(group: str, values: Float[Tensor, "*n c"], numbers: Mapping[str, int]) -> Float[Tensor, "*n k"]:
    """The channels of a group, in Galileo's normalisation, from the bands' own values."""
    names, mean, std = BANDS[group]
    chosen = torch.stack([values[..., numbers[name]] for name in names], dim=-1)
    if group == "NDVI":
        near, red = chosen[..., :1], chosen[..., 1:]
        chosen = (near - red) / (near + red).clamp(min=SMALLEST_SUM)
    centre, scale = chosen.new_tensor(mean), chosen.new_tensor(std)
    return (chosen - centre) / scale * NORMALISED_STD + NORMALISED_MEAN


def _groups(name: str, bands: Iterable[str]) -> list[str]:
    """The groups that a band set makes; raises InputError if there is none."""
    plain = {_plain(band) for band in bands}
    groups = [group for group, wanted in BANDS.items() if plain.issuperset(wanted.names)]
    if not groups:
        wanted = "; ".join(" ".join(group.names) for group in BANDS.values())
        reason = f"makes no group of Galileo's; a band set must have the bands of one: {wanted}"
        raise InputError(f"data.modalities.{name}.band_sets: {' '.join(bands)}: {reason}")
    return groups


def _plain(band: str) -> str:
    return re.sub(r"^B0(?=\d)", "B", band.upper())


RELEASED_NAMES = (
    (r"^blocks\.(\d+)\.norm1\.", r"transformer.blocks.\1.attention_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"transformer.blocks.\1.mlp_norm."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"transformer.blocks.\1.attention.out."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"transformer.blocks.\1.mlp.0."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"transformer.blocks.\1.mlp.2."),
    (r"^norm\.", "transformer.norm."),
)
TABLES = ("pos_embed", "month_embed.weight")
"""Of sines, which are computed here."""


def released_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `GalileoNetwork` from the state that is released as `encoder.pt`."""
    renamed = {name: tensor for name, tensor in weights.items() if name not in TABLES and ".attn.q" not in name}
    for q in (name for name in weights if re.search(r"\.attn\.q\.", name)):
        block, _, kind = q.partition(".attn.q.")
        parts = [weights[f"{block}.attn.{part}.{kind}"] for part in "qkv"]
        renamed[f"transformer.{block}.attention.qkv.{kind}"] = torch.cat(parts)
    result = {}
    for name, tensor in renamed.items():
        if not re.search(r"\.attn\.[kv]\.", name):
            for pattern, replacement in RELEASED_NAMES:
                name = re.sub(pattern, replacement, name)
            result[name] = tensor
    return result
