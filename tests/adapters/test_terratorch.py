"""The encoder as a backbone of TerraTorch, where that is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from building import TINY, trained_run
from pages import blocks

import hybrid_patch
from hybrid_patch.errors import InputError

pytest.importorskip("terratorch", reason="the extra terratorch is not installed")

from terratorch.models import EncoderDecoderFactory
from terratorch.registry import BACKBONE_REGISTRY

import hybrid_patch.adapters.terratorch

DATES = ["2024-05-31", "2024-07-01"]
ONLY = ("~data.modalities.sentinel1", "~data.modalities.srtm")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of Sentinel-2 alone."""
    return str(trained_run(tmp_path_factory.mktemp("trained") / "run", *TINY, *ONLY))


def image(samples: int = 2) -> torch.Tensor:
    """A series as TerraTorch has it: `[B, C, T, H, W]`."""
    return torch.rand(samples, 12, 2, 16, 16, generator=torch.Generator().manual_seed(0)) * 3000


def test_features_are_those_of_the_encoder(run: str) -> None:
    """Also of one image, of a dict, and with dates of each sample."""
    backbone = BACKBONE_REGISTRY.build("hybrid_patch", model=run, dates=DATES, pretrained=True).eval()
    encoder = hybrid_patch.PixelEncoder.load(run, "cpu").eval()
    coords = torch.tensor([[[2024.0, 151.0], [2024.0, 182.0]], [[2023.0, 0.0], [2023.0, 364.0]]])
    stamps = torch.tensor([[[31, 4, 2024], [1, 6, 2024]], [[1, 0, 2023], [31, 11, 2023]]])
    with torch.no_grad():
        expected = encoder({"sentinel2_l2a": image().transpose(1, 2)}, DATES)
        torch.testing.assert_close(backbone(image()), [expected])
        torch.testing.assert_close(backbone({"sentinel2_l2a": image()}), [expected])
        dated = encoder({"sentinel2_l2a": image().transpose(1, 2)}, stamps)
        torch.testing.assert_close(backbone(image(), temporal_coords=coords, location_coords=None), [dated])
        first = BACKBONE_REGISTRY.build("hybrid_patch", model=run, dates=DATES[:1]).eval()
        alone = encoder({"sentinel2_l2a": image()[:, None, :, 0]}, DATES[:1])
        torch.testing.assert_close(first(image()[:, :, 0]), [alone])
    assert backbone.out_channels == [expected.shape[1]]


def test_a_model_of_terratorch_is_trained(run: str) -> None:
    torch.manual_seed(0)
    model = EncoderDecoderFactory().build_model(
        task="segmentation",
        backbone="hybrid_patch",
        backbone_model=run,
        backbone_dates=DATES,
        decoder="IdentityDecoder",
        num_classes=2,
    )
    labels = (image()[:, 3, 0] > 1500).long()
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        output = model(image()).output
        assert output.shape == (2, 2, 16, 16)
        loss = torch.nn.functional.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_code_of_the_page(run: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "run").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (code,) = blocks(Path(__file__).parents[2] / "docs" / "pixel-encoder.md", "py")
    exec(code, names)
    assert names["model"](image()[:, :, 0]).output.shape == (2, 5, 16, 16)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"bands": [1]}, "backbone_bands: unknown; hybrid_patch takes: model, modality, dates"),
        ({"modality": "landsat"}, "images: landsat: unknown modality; the encoder takes: sentinel2_l2a"),
        ({"dates": []}, "dates: none given, but sentinel2_l2a has a timestep for each date"),
    ],
)
def test_what_does_not_fit_is_one_line(run: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as error:
        BACKBONE_REGISTRY.build("hybrid_patch", **{"model": run, "dates": DATES, **options})(image())
    assert str(error.value).startswith(line)
