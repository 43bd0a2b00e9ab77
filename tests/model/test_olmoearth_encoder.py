"""OlmoEarth's encoders against the package of its authors, at random weights."""

import dataclasses
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from olmoearth_pretrain_minimal import Normalizer, NormalizerV1, NormalizerV1_2, OlmoEarthPretrain_v1
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality as Specification
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample
from torch import Tensor

from hybrid_patch.config.architecture import OlmoEarth
from hybrid_patch.config.compose import compose
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Transformer
from hybrid_patch.data.packing import everything, pack
from hybrid_patch.data.patchify import patchify
from hybrid_patch.errors import InputError
from hybrid_patch.model.olmoearth.encoder import OlmoEarthEncoder
from hybrid_patch.model.olmoearth.locations import LocationEncoder
from hybrid_patch.model.olmoearth.network import difference, network_config
from hybrid_patch.model.olmoearth.weights import released_weights

SMALL = Transformer(width=64, depth=2, heads=4, mlp_ratio=2.0, drop_path=0.0)
SPECS = ("sentinel2_l2a", "sentinel1", "landsat")
VERSIONS: dict[OlmoEarth, str] = {
    "olmoearth_v1": "v1",
    "olmoearth_v1_1": "v1.1",
    "olmoearth_v1_2": "v1.2",
    "olmoearth_v1_3": "v1.3",
}
RELEASED: list[tuple[str, OlmoEarth]] = [
    *(("nano", "olmoearth_v1"), ("large", "olmoearth_v1"), ("tiny", "olmoearth_v1_1")),
    *(("nano", "olmoearth_v1_2"), ("small", "olmoearth_v1_2"), ("base", "olmoearth_v1_3")),
]
PAGE = Path(__file__).parents[2] / "docs" / "released-encoders.md"
SIDE, DATES = 16, 3
STAMPS = torch.tensor([[[1, 0, 2019], [29, 5, 2020], [31, 11, 2021]], [[2, 2, 2022], [2, 2, 2022], [9, 8, 2023]]])
TOLERANCE = 2e-5
ONE_SENSOR = ("data.modalities.srtm.decode_only=true",)
PS16 = ("patch.processing_patch_size=16", "patch.output_patch_size=16")


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
    fields = {"timestamps": STAMPS}
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


class Pooled(torch.nn.Module):
    """In the place of a head that is not used here."""

    def forward(self, tokens: object) -> None:
        return None


def package_output(
    ours: OlmoEarthEncoder, given: MaskedOlmoEarthSample, patch_size: int, gsd: float = 10.0, **options: int
) -> dict[str, Any]:
    network = ours.network
    network.project_and_aggregate = Pooled()
    network.train()  # in evaluation the package lets padding take part in attention
    output: dict[str, Any] = network(given, patch_size=patch_size, input_res=gsd, **options)
    return output


def package_tokens(ours: OlmoEarthEncoder, given: MaskedOlmoEarthSample, patch_size: int, gsd: float = 10.0) -> Tensor:
    output = package_output(ours, given, patch_size, gsd)["tokens_and_masks"]
    return torch.cat([getattr(output, name).flatten(1, 4) for name in ours.modalities], dim=1)


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
    made = ours(patches(inputs, values, patch_size), valid_pixels(values), packing, STAMPS)
    expected = package_tokens(ours, sample(inputs, values, of_pixels(masks, patch_size)), patch_size, gsd)
    assert (packing.scatter(made) - torch.where(flat(masks)[..., None], expected, 0)).abs().max() < TOLERANCE
    assert expected.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("size", [8, 4, 1])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_location_tokens_are_the_packages(size: int, ratio: float) -> None:
    inputs = {"sentinel2_l2a": modalities("olmoearth_v1_3")["sentinel2_l2a"]}
    ours, values, masks = encoder("olmoearth_v1_3", inputs), images(inputs), token_masks(inputs, 8, ratio)
    fine = {name: of.repeat_interleave(8 // size, 1).repeat_interleave(8 // size, 2) for name, of in masks.items()}
    packing = pack(flat(fine))
    made = packing.scatter(ours(patches(inputs, values, size), valid_pixels(values), packing, STAMPS))
    given = sample(inputs, values, of_pixels(masks, 8))
    expected = package_output(ours, given, 8, location_query_patch_size=size)["location_tokens"]
    made = made.unflatten(1, (*expected.shape[1:3], DATES))
    difference = torch.where(fine["sentinel2_l2a"], made - expected[:, :, :, None], 0)
    assert difference.abs().max() < TOLERANCE


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Up to 3 of the 12 sentinel2_l2a bands were copied")
@pytest.mark.parametrize(
    ("architecture", "normalizer"), [("olmoearth_v1", NormalizerV1), ("olmoearth_v1_2", NormalizerV1_2)]
)
def test_bands_that_are_missing_are_what_the_package_makes_of_them(
    architecture: OlmoEarth, normalizer: type[Normalizer]
) -> None:
    """B06 is lost, and with v1 all of the third group, which then makes no token; the token is the mean of groups."""
    lost = {"B06"} if architecture == "olmoearth_v1_2" else {"B06", "B01", "B09"}
    whole = modalities(architecture)["sentinel2_l2a"]
    bands = tuple(band for band in whole.bands if band not in lost)
    columns = [whole.bands.index(band) for band in bands]
    mean, std = ([of[column] for column in columns] for of in (whole.mean or (), whole.std or ()))
    inputs = {"S2L2A": dataclasses.replace(whole, bands=bands, band_sets=(bands,), mean=tuple(mean), std=tuple(std))}
    ours, values = encoder(architecture, inputs), images({"S2L2A": whole})["S2L2A"]
    packing = everything(2, 4 * DATES, torch.device("cpu"))
    made = ours(patches(inputs, {"S2L2A": values[..., columns]}, 8), valid_pixels({"S2L2A": values}), packing, STAMPS)
    spec = Specification.get("sentinel2_l2a")
    raw = values[..., [whole.bands.index(band) for band in spec.band_order]].numpy()
    raw[..., [spec.band_order.index(band) for band in lost]] = np.nan
    groups = 2 if architecture == "olmoearth_v1" else 1
    mask = torch.zeros(*values.shape[:4], len(whole.band_sets), dtype=torch.long)
    mask[..., groups:] = 3
    given = torch.from_numpy(normalizer().normalize(spec, raw)).float()
    output = package_output(
        ours, MaskedOlmoEarthSample(timestamps=STAMPS, sentinel2_l2a=given, sentinel2_l2a_mask=mask), 8
    )
    expected = output["tokens_and_masks"].sentinel2_l2a[..., :groups, :].mean(-2).flatten(1, 3)
    assert (made - expected).abs().max() < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["olmoearth_v1", "olmoearth_v1_2"])
def test_hidden_tokens_and_missing_pixels_change_nothing(architecture: OlmoEarth) -> None:
    inputs = modalities(architecture)
    ours, values, masks = encoder(architecture, inputs), images(inputs), token_masks(inputs, 8, 0.5)
    rng = torch.Generator().manual_seed(3)
    valid = {name: torch.rand(x.shape[:4], generator=rng) < 0.8 for name, x in values.items()}
    packing, before = pack(flat(masks)), patches(inputs, values, 8)
    after = {}
    for name, x in before.items():
        visible = torch.zeros(x.shape, dtype=torch.bool)
        for number, columns in enumerate(inputs[name].band_set_channels):
            visible[..., columns] = (masks[name][..., number, None, None] & patchify(valid[name], 8))[..., None].expand(
                *x.shape[:-1], len(columns)
            )
        after[name] = torch.where(visible, x, torch.rand(x.shape, generator=rng))
    first, second = (ours(each, valid, packing, STAMPS) for each in (before, after))
    assert torch.equal(first[packing.valid()], second[packing.valid()])


def test_grids_need_not_be_square_and_images_need_no_date() -> None:
    whole = dataclasses.replace(modalities("olmoearth_v1")["sentinel1"], temporal=False)
    ours = encoder("olmoearth_v1", {"sentinel1": whole})
    x = torch.rand(1, 2, 3, 1, 8, 8, 2)
    packing, valid = everything(1, 6, x.device), torch.ones(1, 16, 24, 1, dtype=torch.bool)
    made = ours({"sentinel1": x}, {"sentinel1": valid}, packing, torch.zeros(1, 0, 3, dtype=torch.long))
    square = torch.cat([x, x[:, :1]], dim=1)
    mask = pack((torch.arange(9) < 6)[None])
    more = {"sentinel1": torch.ones(1, 24, 24, 1, dtype=torch.bool)}
    torch.testing.assert_close(made, ours({"sentinel1": square}, more, mask, torch.zeros(1, 0, 3, dtype=torch.long)))


@pytest.mark.parametrize("architecture", list(VERSIONS))
def test_all_that_is_trained_has_gradients(architecture: OlmoEarth) -> None:
    """Weights of bands that the data lack are not trained; recomputing the blocks changes nothing."""
    inputs = {"sentinel1": modalities(architecture)["sentinel1"]}
    ours, values = encoder(architecture, inputs), images(inputs, samples=1)
    packing, gradients = everything(1, 4 * DATES, torch.device("cpu")), []
    for recomputed in (False, True):
        ours.network.gradient_checkpointing = recomputed
        ours.zero_grad()
        made = ours(patches(inputs, values, 8), valid_pixels(values), packing, STAMPS[:1])
        made.square().sum().backward()
        trained = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
        assert all(grad is not None and bool(grad.isfinite().all()) for grad in trained.values())
        gradients.append({name: grad.clone() for name, grad in trained.items() if grad is not None})
    assert any("sentinel1" in name for name in gradients[0])
    assert not any("landsat" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize(("size", "architecture"), RELEASED)
def test_our_options_are_the_packages_models(size: str, architecture: OlmoEarth) -> None:
    """By the names and shapes of all weights, and by what no weight tells; on a device that holds no numbers."""
    options = compose([f"model=olmoearth_{size}", f"model.architecture={architecture}", *ONE_SENSOR]).model
    with torch.device("meta"):
        package = OlmoEarthPretrain_v1(size, VERSIONS[architecture])
        config = network_config(architecture, options.encoder)
        network = config.build()
    released = released_weights(package.model.state_dict())
    ours = {name: x.shape for name, x in network.state_dict().items() if not name.startswith("project_and")}
    assert {name: x.shape for name, x in released.items()} == ours
    settings = {**vars(package.model.encoder), "num_heads": package.model.encoder.blocks[0].attn.num_heads}
    assert difference(config, settings) is None
    assert "num_heads is 2 in its config.json" in str(difference(config, {**settings, "num_heads": 2}))


@pytest.mark.parametrize(
    ("name", "bands", "sets", "line"),
    [
        (
            "s2",
            ["B02", "B03"],
            [["B02"], ["B03"]],
            "data.modalities.s2.band_sets: this encoder has one token of B02,B03, ",
        ),
        ("s2", ["B02", "red"], [["B02", "red"]], "data.modalities.s2.bands: B02 red: no input of OlmoEarth "),
        ("landsat", ["B1", "red"], [["B1"], ["red"]], "data.modalities.landsat.band_sets: red: has none of B8 B1 B2"),
    ],
)
def test_bands_that_do_not_fit_are_one_line(name: str, bands: list[str], sets: list[list[str]], line: str) -> None:
    modality = Modality(bands=tuple(bands), band_sets=tuple(map(tuple, sets)), temporal=True, gsd=10.0)
    with pytest.raises(InputError) as error:
        OlmoEarthEncoder("olmoearth_v1_2", {name: modality}, SMALL)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model.encoder.heads=64"], "model.encoder.heads=64: the width of a head is not divisible by 4 (rotary"),
        (
            ["model.architecture=olmoearth_v1_3", "data.tile=20", "patch=ps4"],
            "data.tile=20: makes crops of 20 pixels, ",
        ),
        (
            ["model.architecture=olmoearth_v1_3", "data.tile=48", *PS16],
            "patch.processing_patch_size=16: does not divide",
        ),
        (["model.base_patch_size=8"], "model.base_patch_size=8: an option of model.architecture=flexivit; try null"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(words: list[str], line: str) -> None:
    with pytest.raises(InputError) as error:
        compose(["model=olmoearth_nano", *ONE_SENSOR, *words])
    assert str(error.value).startswith(line)


def test_the_package_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^olmoearth_pretrain_minimal: not installed; pip install 'hybrid_patch\[olm"):
        compose(["model=olmoearth_nano", *ONE_SENSOR])


def test_the_command_of_the_page_is_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiles").mkdir()
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"(?m)^    hybrid-patch train (.*\\\n.*)$", PAGE.read_text())
    config = compose(shlex.split(command.replace("\\\n", " ")))
    assert (config.model.architecture, config.target.name) == ("olmoearth_v1_2", "self")
