"""Galileo's encoder against the outputs of the original code, where its released weights are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Transformer
from hybrid_patch.data.packing import pack
from hybrid_patch.data.patchify import patchify
from hybrid_patch.errors import InputError
from hybrid_patch.model.galileo import BANDS, GROUPS, GalileoEncoder, GalileoNetwork, Kind, released_weights

NANO = Transformer(width=128, depth=4, heads=8, mlp_ratio=4.0, drop_path=0.0)
TOLERANCE = 1e-4
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


@pytest.fixture(scope="module")
def released(released_galileo: Path) -> GalileoNetwork:
    network = GalileoNetwork(NANO)
    network.load_state_dict(
        released_weights(torch.load(released_galileo / "encoder.pt", weights_only=True, map_location="cpu"))
    )
    return network.eval()


@pytest.fixture(scope="module")
def reference(released_galileo: Path) -> dict[str, Tensor]:
    with np.load(released_galileo / "reference.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def outputs(
    network: GalileoNetwork, reference: dict[str, Tensor], patch_size: int, only: tuple[int, ...] = ()
) -> dict[Kind, Tensor]:
    """The tokens of all kinds for the reference's inputs, the norm of zeros where left out; `only` groups of s_t."""
    months, side = reference["months"], reference["s_t_x"].shape[1] // patch_size
    tokens: dict[Kind, Tensor] = {}
    masks: dict[Kind, Tensor] = {}
    for kind, groups in GROUPS.items():
        values = reference[f"{kind}_x"]
        spatial, temporal = kind in ("s_t", "sp"), kind in ("s_t", "t")
        if spatial:
            images = values if temporal else values[:, :, :, None]
            values = patchify(images, patch_size)
        of_groups = []
        for group, channels in zip(groups, values.split(list(groups.values()), dim=-1), strict=True):
            if spatial:
                embedded = network.of_patches(kind, group, channels)
            else:
                embedded = network.of_values(kind, group, channels).reshape(len(values), 1, 1, -1, 128)
            grid = (side, side) if spatial else None
            of_groups.append(
                embedded + network.encoding(kind, group, months if temporal else None, grid, float(patch_size))
            )
        tokens[kind] = torch.stack(of_groups, dim=4)  # [B, h, w, t, groups, D]
        mask = reference[f"{kind}_m"] == 0
        mask = mask[:, ::patch_size, ::patch_size] if spatial else mask
        mask = mask.reshape(tokens[kind].shape[:-1])
        if only:
            mask = torch.zeros_like(mask)
            if kind == "s_t":
                mask[..., list(only)] = True
        masks[kind] = mask
    sequence = torch.cat([tokens[kind].flatten(1, 4) for kind in GROUPS], dim=1)
    mask = torch.cat([masks[kind].flatten(1) for kind in GROUPS], dim=1)
    latents = network.transformer(sequence, None, mask)
    latents = torch.where(mask[..., None], latents, network.transformer.norm(torch.zeros(128)))
    parts = latents.split([tokens[kind][0, ..., 0].numel() for kind in GROUPS], dim=1)
    return {kind: part.reshape(tokens[kind].shape) for kind, part in zip(GROUPS, parts, strict=True)}


@pytest.mark.sample(1)
@torch.no_grad()
@pytest.mark.parametrize("patch_size", [8, 4, 2, 1])
def test_tokens_are_those_of_the_original(
    released: GalileoNetwork, reference: dict[str, Tensor], patch_size: int
) -> None:
    made = outputs(released, reference, patch_size)
    for kind, tokens in made.items():
        expected = reference[f"ps{patch_size}_{kind}"]
        tokens = tokens[:, : expected.shape[1], : expected.shape[2]] if kind in ("s_t", "sp") else tokens
        assert (tokens.reshape(expected.shape) - expected).abs().max() < TOLERANCE, kind


@pytest.mark.sample(1)
@torch.no_grad()
@pytest.mark.parametrize("patch_size", [8, 1])
def test_tokens_of_sentinel_2_alone_are_those_of_the_original(
    released: GalileoNetwork, reference: dict[str, Tensor], patch_size: int
) -> None:
    made = outputs(released, reference, patch_size, only=(1, 2, 3, 4, 5, 6))["s_t"]
    expected = reference[f"s2only_ps{patch_size}_s_t"]
    difference = made[:, : expected.shape[1], : expected.shape[2]] - expected
    assert difference.abs().max() < TOLERANCE


def test_the_statistics_are_the_released_ones(released_galileo: Path) -> None:
    released = json.loads((released_galileo / "normalization.json").read_text())
    for key, names in (("13", list(GROUPS["s_t"])), ("16", ["SRTM"])):
        mean, std = ([x for name in names for x in getattr(BANDS[name], what)] for what in ("mean", "std"))
        np.testing.assert_allclose(mean, released[key]["mean"][: len(mean)], rtol=1e-7)
        np.testing.assert_allclose(std, released[key]["std"][: len(std)], rtol=1e-7)


def sentinel2(*band_sets: tuple[str, ...]) -> Modality:
    bands = tuple(band for bands in band_sets for band in bands)
    mean, std = ((value,) * len(bands) for value in (1500.0, 700.0))
    return Modality(bands=bands, band_sets=band_sets, temporal=True, gsd=10.0, mean=mean, std=std)


@pytest.mark.sample(1)
@torch.no_grad()
@pytest.mark.parametrize("patch_size", [8, 2, 1])
def test_the_encoder_gives_the_mean_of_the_groups_tokens(
    released: GalileoNetwork, reference: dict[str, Tensor], patch_size: int
) -> None:
    """From digital numbers normalised as the data are, not as Galileo's: red and infrared are such that NDVI fits."""
    modality = sentinel2(S2_BANDS)
    encoder = GalileoEncoder({"s2": modality}, NANO).eval()
    encoder.network.load_state_dict(released.state_dict())
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(2, 16, 16, 3, len(S2_BANDS), generator=rng) * 4000 + 100
    normalised = (values - 1500) / 700 * 0.25 + 0.5
    months = torch.tensor([[0, 5, 11], [3, 3, 7]])
    timestamps = torch.stack([months + 1, months, months + 2000], dim=-1)
    h = 16 // patch_size
    mask = torch.ones(2, h * h * 3, dtype=torch.bool)
    valid = torch.ones(2, 16, 16, 3, dtype=torch.bool)
    made = encoder({"s2": patchify(normalised, patch_size)}, {"s2": valid}, pack(mask), timestamps)

    of_band = {name.replace("B0", "B"): values[..., i] for i, name in enumerate(S2_BANDS)}
    of_band["NDVI"] = (of_band["B8"] - of_band["B4"]) / (of_band["B8"] + of_band["B4"])
    images = []
    for group in list(GROUPS["s_t"])[1:]:
        names, mean, std = BANDS[group]
        for name, centre, scale in zip(("NDVI",) if group == "NDVI" else names, mean, std, strict=True):
            images.append((of_band[name] - (centre - 2 * scale)) / (4 * scale))
    inputs = {**reference, "s_t_x": torch.stack([torch.zeros_like(images[0])] * 2 + images, dim=-1), "months": months}
    expected = outputs(released, inputs, patch_size, only=(1, 2, 3, 4, 5, 6))["s_t"][..., 1:, :].mean(4)
    assert (made - rearrange(expected, "b h w t d -> b (h w t) d")).abs().max() < TOLERANCE


@torch.no_grad()
def test_hidden_tokens_and_missing_pixels_change_nothing(released: GalileoNetwork) -> None:
    sets = (("B02", "B03", "B04"), ("B08",), ("B11", "B12"))
    encoder = GalileoEncoder({"s2": sentinel2(*sets)}, NANO).eval()
    encoder.network.load_state_dict(released.state_dict())
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 16, 16, 2, 6, generator=rng)
    valid = torch.rand(2, 16, 16, 2, generator=rng) < 0.8
    mask = torch.rand(2, 2, 2, 2, 3, generator=rng) < 0.5
    timestamps = torch.tensor([[[1, 4, 2020], [1, 6, 2020]]]).expand(2, -1, -1)
    first = encoder({"s2": patchify(pixels, 8)}, {"s2": valid}, pack(mask.flatten(1)), timestamps)
    hidden = ~mask.repeat_interleave(8, 1).repeat_interleave(8, 2)  # of each band set
    of_bands = hidden[..., [0, 0, 0, 1, 2, 2]] | ~valid[..., None]
    changed = torch.where(of_bands, torch.rand(pixels.shape, generator=rng), pixels)
    second = encoder({"s2": patchify(changed, 8)}, {"s2": valid}, pack(mask.flatten(1)), timestamps)
    padding = pack(mask.flatten(1)).valid()
    assert torch.equal(first[padding], second[padding])


def test_weights_of_groups_that_the_data_do_not_make_are_not_trained() -> None:
    encoder = GalileoEncoder({"s2": sentinel2(("B02", "B03", "B04"), ("B08",))}, NANO)
    trained = {name for name, x in encoder.named_parameters() if x.requires_grad and "transformer" not in name}
    embeddings = {f"space_time_embed.{g}.proj.{part}" for g in ("S2_RGB", "S2_NIR_10m") for part in ("weight", "bias")}
    assert trained == {f"network.{name}" for name in (*embeddings, "s_t_channel_embed")}


def test_a_band_set_without_a_group_is_named() -> None:
    with pytest.raises(InputError, match=r"data.modalities.s2.band_sets: B01 B09: makes no group of Galileo's"):
        GalileoEncoder({"s2": sentinel2(("B02", "B03", "B04"), ("B01", "B09"))}, NANO)
