"""The encoder of OlmoEarth (Herzog et al. 2025, "OlmoEarth: Stable Latent Image Modeling for Multimodal Earth
Observation"), by the package of its authors, whose released weights embed patches of 1 to 8 pixels."""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.encodings import PositionEncoding
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.flexi_vit import Encoder
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.tokenization import TokenizationConfig
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hybrid_patch.config import schema
from hybrid_patch.config.architecture import OlmoEarth
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.patchify import patchify
from hybrid_patch.model.encodings import REFERENCE_GSD
from hybrid_patch.model.olmoearth.inputs import groups_of_bands, groups_of_sets, normalisation, specification
from hybrid_patch.model.olmoearth.network import difference, network_config
from hybrid_patch.model.released import Blocks, ReleasedEncoder

ANCHOR_YEAR, DAYS_A_YEAR = 2000, 365.25
DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
"""The first of each month, in a year."""
NORMALISATION = ("columns", "scale", "offset")
"""What `normalisation` gives."""


class OlmoEarthEncoder(ReleasedEncoder):
    """OlmoEarth behind the interface of our `Encoder`: the token of a band set is the mean of its groups' tokens.

    A modality is the package's of its name, or else the first that has all of its bands, by their names in any case.
    A group belongs to the band set that has its bands; of those that are not in the data, v1 gets the nearest in
    wavelength of its band set, and later versions 0, as they were trained. Values enter by the package's statistics,
    whatever the data's are. As in the package, pixels are enlarged to patches of 8 before they are embedded, so that at
    smaller patch sizes a token depends on its neighbours' pixels too. Raises InputError for modalities and band sets
    that do not fit.
    """

    def __init__(self, architecture: OlmoEarth, modalities: Mapping[str, Modality], size: schema.Transformer) -> None:
        inputs = {name: modality for name, modality in modalities.items() if not modality.decode_only}
        specifications = {name: specification(name, modality) for name, modality in inputs.items()}
        config = network_config(architecture, size)
        tokenization = config.tokenization_config or TokenizationConfig()
        bands = {name: groups_of_bands(spec, tokenization) for name, spec in specifications.items()}
        super().__init__(inputs, {name: groups_of_sets(name, m, bands[name]) for name, m in inputs.items()})
        self.specifications, self.config = specifications, config
        self.network: Encoder = config.build()
        self.network.gradient_checkpointing = False
        del self.network.project_and_aggregate  # of a loss
        self.register_buffer("days_before_month", torch.tensor(DAYS_BEFORE, dtype=torch.float32), persistent=False)
        copies = architecture == "olmoearth_v1"
        for name, modality in inputs.items():
            for band_set, groups in zip(modality.band_sets, self.groups[name], strict=True):
                for group in groups:
                    chosen = bands[name][int(group)]
                    parts = normalisation(modality, band_set, specifications[name], chosen, copies)
                    for part, values in zip(NORMALISATION, parts, strict=True):
                        self.register_buffer(f"{name}_{group}_{part}", values, persistent=False)
        self._leave_out_unused()

    @property
    def transformer(self) -> Blocks:
        return self.network

    def embed(
        self,
        name: str,
        patches: Float[Tensor, "b h w t p q c"],
        valid: Bool[Tensor, "b height width t"],
        dates: Int[Tensor, "b t 3"],
    ) -> dict[str, Float[Tensor, "b h w t d"]]:
        size, visible = patches.shape[-2], patchify(valid, patches.shape[-2])[..., None]
        modules = list(self.network.patch_embeddings.per_modality_embeddings[self.specifications[name]].values())
        encodings = self._encodings(name, patches, dates, len(modules))
        tokens = {}
        for group in itertools.chain(*self.groups[name]):
            columns, scale, offset = (self.get_buffer(f"{name}_{group}_{part}") for part in NORMALISATION)
            values = torch.where(visible, patches.index_select(-1, columns) * scale + offset, 0)
            images = rearrange(values, "b h w t p q c -> b (h p) (w q) t c")
            tokens[group] = modules[int(group)](images, patch_size=size) + encodings[..., int(group), :]
        return tokens

    def attend(
        self,
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"] | None,
        positions: Float[Tensor, "b n 3"] | None,
        path_mask: Bool[Tensor, "b depth 2"] | None,
    ) -> Float[Tensor, "b n d"]:
        assert path_mask is None  # the package's blocks draw their own: refused with the config
        for block in self.network.blocks:
            run = partial(block, attn_mask=mask, rope_positions=positions)
            if self.network.gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(run, tokens, use_reentrant=False)
            else:
                tokens = run(tokens)
        return self.network.norm(tokens)

    def positions(
        self, patches: Mapping[str, Float[Tensor, "b h w _ p q _"]], timestamps: Int[Tensor, "b t 3"]
    ) -> Float[Tensor, "b n 3"] | None:
        """Days, row and column, in the package's units; None where encodings are added instead."""
        if not PositionEncoding.is_rope(self.config.position_encoding):
            return None
        each = []
        for name, x in patches.items():
            (b, h, w), step = x.shape[:3], self._step(name, x.shape[-2]) * self.config.rope_coordinate_scale
            day, month, year = self.dates(name, timestamps).unbind(-1)
            days = (year - ANCHOR_YEAR).float() * DAYS_A_YEAR + self.get_buffer("days_before_month")[month] + (day - 1)
            rows, columns = (torch.arange(n, device=x.device) * step for n in (h, w))
            shape = (b, h, w, days.shape[1])
            parts = (
                (days * self.config.rope_temporal_coordinate_scale)[:, None, None].expand(shape),
                rows[:, None, None].expand(shape),
                columns[:, None].expand(shape),
            )
            position = torch.stack(parts, dim=-1).flatten(1, 3)
            each.append(position.repeat_interleave(len(self.groups[name]), dim=1))
        return torch.cat(each, dim=1)

    def difference(self, settings: Mapping[str, Any]) -> str | None:
        return difference(self.config, settings)

    def _step(self, name: str, patch_size: int) -> float:
        """From a patch to the next, in units of 10 m."""
        return self.modalities[name].gsd * patch_size / REFERENCE_GSD

    def _encodings(
        self, name: str, patches: Float[Tensor, "b h w t p q c"], dates: Int[Tensor, "b t 3"], groups: int
    ) -> Float[Tensor, "b h w t groups d"]:
        """What the package adds to tokens; it knows square grids alone, of which this is a part."""
        (b, h, w, t), size = patches.shape[:4], patches.shape[-2]
        spec, gsd = self.specifications[name], self.modalities[name].gsd
        zeros = patches.new_zeros(b, max(h, w), max(h, w), t, groups, self.config.embedding_size)
        return self.network.composite_encodings({spec: zeros}, dates, size, gsd)[spec][:, :h, :w]

    def _leave_out_unused(self) -> None:
        """Weights of bands that the data lack are not trained, as nothing says how."""
        embeddings = self.network.patch_embeddings.per_modality_embeddings
        encodings = self.network.composite_encodings.per_modality_channel_embeddings
        made = {(self.specifications[n], int(g)) for n, sets in self.groups.items() for g in itertools.chain(*sets)}
        for spec, modules in embeddings.items():
            for number, module in enumerate(modules.values()):
                module.requires_grad_((spec, number) in made)
            encodings[spec].requires_grad_(spec in self.specifications.values())
