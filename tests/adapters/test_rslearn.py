"""The encoder in a model of rslearn, where that is installed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from building import TINY, trained_run
from pages import blocks

import hybrid_patch
from hybrid_patch.errors import InputError

pytest.importorskip("rslearn", reason="the extra rslearn is not installed")

import jsonargparse
from rslearn.models.conv import Conv
from rslearn.models.singletask import SingleTaskModel
from rslearn.train.model_context import ModelContext, RasterImage
from rslearn.train.tasks.segmentation import SegmentationHead

from hybrid_patch.adapters.rslearn import HybridPatch

RANGES = [(datetime(2024, month, 1, tzinfo=UTC), datetime(2024, month, 29, tzinfo=UTC)) for month in (5, 7)]
DATES = ["2024-05-15", "2024-07-15"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(trained_run(tmp_path_factory.mktemp("trained") / "run", *TINY))


def context(samples: int = 2, **more: Any) -> ModelContext:
    """Sentinel-2 in two timesteps and heights in one, with timestamps as rslearn's datasets give them."""
    rng = torch.Generator().manual_seed(0)
    inputs: list[dict[str, Any]] = [
        {
            "sentinel2_l2a": RasterImage(torch.rand(12, 2, 16, 16, generator=rng) * 3000, RANGES),
            "srtm": RasterImage(torch.rand(1, 1, 16, 16, generator=rng) * 900),
            **more,
        }
        for _ in range(samples)
    ]
    return ModelContext(inputs, [])


def test_features_are_those_of_the_encoder(run: str) -> None:
    given, adapter = context(), HybridPatch(run).eval()
    images = {
        name: torch.stack([sample[name].image for sample in given.inputs]).transpose(1, 2)
        for name in ("sentinel2_l2a", "srtm")
    }
    with torch.no_grad():
        (features,) = adapter(given).feature_maps
        expected = hybrid_patch.PixelEncoder.load(run, "cpu")(images, DATES)
    torch.testing.assert_close(features, expected)
    assert adapter.get_backbone_channels() == [(1, features.shape[1])]


def test_inputs_of_other_names_and_missing_pixels(run: str) -> None:
    given = context()
    for sample in given.inputs:
        sample["s2"] = sample.pop("sentinel2_l2a")
        sample["s2"].image[:, 0, :8] = 0
        sample["s2"].image[0, 1] = 0  # of one band alone: measured
    with torch.no_grad():
        (features,) = HybridPatch(run, {"sentinel2_l2a": "s2"}, nodata=0).eval()(given).feature_maps
        images = torch.stack([sample["s2"].image for sample in given.inputs]).transpose(1, 2)
        images[:, 0, :, :8] = torch.nan
        expected = hybrid_patch.PixelEncoder.load(run, "cpu")({"sentinel2_l2a": images}, DATES)
    torch.testing.assert_close(features, expected)


def test_static_inputs_need_no_dates(run: str) -> None:
    (features,) = HybridPatch(run, {"srtm": "srtm"})(context()).feature_maps
    assert features.shape == (2, 32, 16, 16)


def test_a_model_of_rslearn_is_trained(run: str) -> None:
    torch.manual_seed(0)
    adapter = HybridPatch(run)
    head = Conv(adapter.get_backbone_channels()[0][1], 2, 1, activation=torch.nn.Identity())
    model = SingleTaskModel([adapter], [head, SegmentationHead()]).train()
    given = context()
    labels = [(sample["srtm"].image > 450).long() for sample in given.inputs]
    targets = [
        {"classes": RasterImage(label), "valid": RasterImage(torch.ones_like(label, dtype=torch.float32))}
        for label in labels
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        loss = sum(model(given, targets).loss_dict.values())
        assert isinstance(loss, torch.Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.encoder[0].encoder.network.encoder_upsampler.training


def test_the_config_of_the_page(run: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "run").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    (config,) = blocks(Path(__file__).parents[2] / "docs" / "pixel-encoder.md", "yaml")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--model", type=SingleTaskModel)
    model = parser.instantiate(parser.parse_object({"model": yaml.safe_load(config)})).model
    assert isinstance(model.encoder[0], HybridPatch)
    assert (model.encoder[0].inputs, model.encoder[0].nodata) == ({"sentinel2_l2a": "s2"}, 0)


@pytest.mark.parametrize(
    ("inputs", "change", "line"),
    [
        ({"sentinel2_l2a": "s2"}, {}, "inputs: sentinel2_l2a, srtm: the encoder takes: s2; give inputs="),
        (None, {"srtm": torch.zeros(1)}, "inputs.srtm: not a raster image; declare it with data_type: raster"),
        ({"landsat": "srtm"}, {}, "images: landsat: unknown modality; the encoder takes: sentinel2_l2a, sentinel1"),
        (None, {"sentinel2_l2a": RasterImage(torch.zeros(12, 2, 16, 16))}, "inputs.sentinel2_l2a: has no timestamps"),
    ],
)
def test_what_does_not_fit_is_one_line(run: str, inputs: Any, change: Any, line: str) -> None:
    with pytest.raises(InputError) as error:
        HybridPatch(run, inputs)(context(**change))
    assert str(error.value).startswith(line)
