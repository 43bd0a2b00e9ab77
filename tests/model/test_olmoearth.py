"""OlmoEarth's encoders against the package of its authors, at random weights."""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from olmoearth_pretrain_minimal import Normalizer, OlmoEarthPretrain_v1
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.flexi_vit import Encoder
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality as Specification
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample
from torch import Tensor

from hybrid_patch.config.architecture import OlmoEarth
from hybrid_patch.config.compose import compose
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Transformer
from hybrid_patch.data.packing import Packing, everything, pack
from hybrid_patch.data.patchify import patchify
from hybrid_patch.errors import InputError
from hybrid_patch.model.olmoearth.encoder import OlmoEarthEncoder
from hybrid_patch.model.olmoearth.locations import LocationEncoder
from hybrid_patch.model.olmoearth.network import difference, network_config

SMALL = Transformer(width=64, depth=2, heads=4, mlp_ratio=2.0)
SPECS = ("sentinel2_l2a", "sentinel1", "landsat")
VERSIONS: dict[OlmoEarth, str] = {
    "olmoearth_v1": "v1",
    "olmoearth_v1_1": "v1.1",
    "olmoearth_v1_2": "v1.2",
    "olmoearth_v1_3": "v1.3",
}
SIZES = {"v1": ("nano", "tiny", "base", "large"), "v1.1": ("nano", "tiny", "base"), "v1.3": ("base",)}
SIZES["v1.2"] = ("nano", "tiny", "small", "base")
SIDE, DATES = 16, 3
TOLERANCE = 2e-5


def modalities(architecture: OlmoEarth, gsd: float = 10.0) -> dict[str, Modality]:
    """The package's three, with its groups as band sets, in another order and with other statistics."""
    groups = network_config(architecture, SMALL).tokenization_config
    made = {}
    for spec in SPECS:
        order = Specification.get(spec).band_order
        indices = Specification.get(spec).bandsets_as_indices() if groups is None else groups.get_bandset_indices(spec)
        sets = tuple(tuple(order[i] for i in each) for each in indices)
        bands = tuple(sorted(order))
        made[spec] = Modality(
            bands=bands,
            band_sets=sets,
            temporal=True,
            gsd=gsd,
            mean=tuple(range(100, 100 + len(bands))),
            std=tuple(range(300, 300 + len(bands))),
        )
    return made


def encoder(architecture: OlmoEarth, inputs: Mapping[str, Modality]) -> OlmoEarthEncoder:
    torch.manual_seed(0)
    made = LocationEncoder if architecture == "olmoearth_v1_3" else OlmoEarthEncoder
    result = made(architecture, inputs, SMALL)
    with torch.no_grad():
        for parameter in result.network.composite_encodings.per_modality_channel_embeddings.values():
            parameter.normal_()
    return result


def images(inputs: Mapping[str, Modality], samples: int = 2) -> dict[str, Tensor]:
    """In units of the data."""
    rng = torch.Generator().manual_seed(1)
    shape = (samples, SIDE, SIDE, DATES)
    return {name: torch.rand(*shape, len(m.bands), generator=rng) * 1000 for name, m in inputs.items()}


def timestamps(samples: int = 2) -> Tensor:
    stamps = torch.tensor([[[1, 0, 2019], [29, 5, 2020], [31, 11, 2021]], [[2, 2, 2022], [2, 2, 2022], [9, 8, 2023]]])
    return stamps[:samples]


def patches(inputs: Mapping[str, Modality], values: Mapping[str, Tensor], patch_size: int) -> dict[str, Tensor]:
    """Normalised as here."""
    valid = np.ones((len(next(iter(values.values()))), SIDE, SIDE, DATES), dtype=bool)
    return {
        name: patchify(torch.from_numpy(inputs[name].normalise(x.double().numpy(), valid)[0]), patch_size)
        for name, x in values.items()
    }


def sample(
    inputs: Mapping[str, Modality], values: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> MaskedOlmoEarthSample:
    """Normalised by the package."""
    fields = {"timestamps": timestamps(len(next(iter(values.values()))))}
    for name, x in values.items():
        spec = Specification.get(name)
        ordered = x[..., [inputs[name].bands.index(band) for band in spec.band_order]]
        fields[name] = torch.from_numpy(Normalizer().normalize(spec, ordered.double().numpy())).float()
        fields[f"{name}_mask"] = masks[name]
    return MaskedOlmoEarthSample(**fields)


def token_masks(inputs: Mapping[str, Modality], patch_size: int, ratio: float, samples: int = 2) -> dict[str, Tensor]:
    """Which tokens are visible, on grids `[B, h, w, T, S]`."""
    rng, side = torch.Generator().manual_seed(2), SIDE // patch_size
    shape = (samples, side, side, DATES)
    return {name: torch.rand(*shape, len(m.band_sets), generator=rng) < ratio for name, m in inputs.items()}


def of_pixels(masks: Mapping[str, Tensor], patch_size: int) -> dict[str, Tensor]:
    """In the package's values: 0 is visible, 2 is for the decoder."""
    return {
        n: m.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2).long().mul(-2).add(2)
        for n, m in masks.items()
    }


def flat(masks: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([mask.flatten(1) for mask in masks.values()], dim=1)


def valid_pixels(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones(x.shape[:4], dtype=torch.bool) for name, x in values.items()}


def whole(packing: Packing, latents: Tensor) -> Tensor:
    return packing.scatter(latents)


def expected_tokens(network: Encoder, given: MaskedOlmoEarthSample, patch_size: int, gsd: float = 10.0) -> Tensor:
    output = network(given, patch_size=patch_size, input_res=gsd, fast_pass=False)["tokens_and_masks"]
    return torch.cat([getattr(output, name).flatten(1, 4) for name in SPECS], dim=1)


class Pooled(torch.nn.Module):
    """In the place of a head that is not used here."""

    def forward(self, tokens: object) -> None:
        return None


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["olmoearth_v1", "olmoearth_v1_1", "olmoearth_v1_2"])
@pytest.mark.parametrize(
    ("patch_size", "ratio", "gsd"), [(8, 1.0, 10.0), (8, 0.5, 20.0), (4, 0.5, 10.0), (1, 0.1, 10.0)]
)
def test_tokens_are_the_packages(architecture: OlmoEarth, patch_size: int, ratio: float, gsd: float) -> None:
    """Of three modalities and dates, with as many visible tokens in each sample as they happen to have."""
    inputs = modalities(architecture, gsd)
    ours, values, masks = encoder(architecture, inputs), images(inputs), token_masks(inputs, patch_size, ratio)
    packing = pack(flat(masks))
    made = ours(patches(inputs, values, patch_size), valid_pixels(values), packing, timestamps())
    ours.network.project_and_aggregate = Pooled()
    ours.network.train()  # in evaluation the package lets padding take part in attention
    expected = expected_tokens(ours.network, sample(inputs, values, of_pixels(masks, patch_size)), patch_size, gsd)
    expected = torch.where(flat(masks)[..., None], expected, 0)
    assert (packing.scatter(made) - expected).abs().max() < TOLERANCE
    assert expected.std() > 0.1
