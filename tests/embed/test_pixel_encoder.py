"""The encoder as a module: what `embed` gives, with gradients, for whatever is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from building import TINY, trained_run
from pages import blocks
from torch import Tensor, nn

import hybrid_patch
from hybrid_patch.errors import InputError

DATES = ["2024-05-31", "2024-07-01"]
SIDE = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("trained") / "run", *TINY)


def images(samples: int = 1, side: int = SIDE) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = {"sentinel2_l2a": (2, 12), "sentinel1": (2, 2), "srtm": (1, 1)}
    return {n: torch.rand(samples, t, c, side, side, generator=rng) * 2000 for n, (t, c) in shapes.items()}


def as_arrays(images: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: image[0].permute(2, 3, 0, 1).numpy() for name, image in images.items()}


@pytest.mark.parametrize("left_out", [(), ("sentinel1", "srtm")])
def test_it_gives_what_embed_gives(run: Path, left_out: tuple[str, ...]) -> None:
    given = {name: image for name, image in images().items() if name not in left_out}
    given["sentinel2_l2a"][0, 0, 3, 2:9, 4:7] = torch.nan
    encoder = hybrid_patch.PixelEncoder.load(run, "cpu").eval()
    with torch.no_grad():
        made = encoder(given, DATES)[0].permute(1, 2, 0).numpy()
    expected = hybrid_patch.load(run, "cpu").embed(as_arrays(given), DATES)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_complete_images_give_the_same(run: Path) -> None:
    model = hybrid_patch.load(run, "cpu")
    plain, complete = (hybrid_patch.PixelEncoder(model, complete=which) for which in (False, True))
    torch.testing.assert_close(complete(images(2), DATES), plain(images(2), DATES))


def test_sides_that_the_patch_size_does_not_divide(run: Path) -> None:
    encoder = hybrid_patch.PixelEncoder.load(run, "cpu")
    features = encoder({"sentinel2_l2a": images(2, side=13)["sentinel2_l2a"]}, DATES)
    assert features.shape == (2, 32, 13, 13)
    assert bool(features.isfinite().all())


def test_dates_may_differ_between_samples(run: Path) -> None:
    encoder = hybrid_patch.PixelEncoder.load(run, "cpu")
    stamps = torch.tensor([[[31, 4, 2024], [1, 6, 2024]], [[31, 4, 2024], [1, 11, 2024]]])
    same = {name: image.expand(2, -1, -1, -1, -1) for name, image in images().items()}
    first, second = encoder(same, stamps)
    torch.testing.assert_close(first, encoder(images(), DATES)[0])
    assert not torch.equal(first, second)


class Classifier(nn.Module):
    """A linear head on the features of every pixel."""

    def __init__(self, encoder: hybrid_patch.PixelEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(encoder.width, classes, 1)

    def forward(self, images: dict[str, Tensor], dates: list[str]) -> Tensor:
        logits: Tensor = self.head(self.encoder(images, dates))
        return logits


def test_a_network_around_it_is_fine_tuned(run: Path) -> None:
    torch.manual_seed(0)
    network = Classifier(hybrid_patch.PixelEncoder.load(run, "cpu"), 3).train()
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    given = images(2)
    labels = (given["srtm"][:, 0, 0] // 700).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(network(given, DATES), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    for part in ("encoder.network.encoder.transformer", "encoder.network.encoder_upsampler", "head"):
        assert any(name.startswith(part) for name in changed), part
    assert not any(name.startswith("encoder.network.decoder.") for name in changed)


def test_autocast_and_modes(run: Path) -> None:
    encoder = hybrid_patch.PixelEncoder.load(run, "cpu")
    assert not encoder.network.training
    encoder.train()
    assert encoder.network.encoder.training
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        made = encoder(images(), DATES)
    with torch.no_grad():
        exact = encoder(images(), DATES)
    assert (made.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.full
def test_a_module_exported_at_a_fixed_shape_is_the_eager_one(run: Path) -> None:
    encoder = hybrid_patch.PixelEncoder(hybrid_patch.load(run, "cpu"), complete=True).eval()
    stamps = torch.tensor([[[31, 4, 2024], [1, 6, 2024]]])
    with torch.no_grad():
        program = torch.export.export(encoder, (images(), stamps))
        torch.testing.assert_close(program.module()(images(), stamps), encoder(images(), stamps))


@pytest.mark.full
def test_the_code_of_the_page(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "run").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "pixel-encoder.md"
    names: dict[str, Any] = {}
    exec("\n".join(blocks(page, "python")), names)
    assert names["logits"].shape == (2, 3, 16, 16)
    assert isinstance(names["program"], torch.export.ExportedProgram)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda x: {}, "images: none; the encoder takes: sentinel2_l2a, sentinel1, srtm"),
        (lambda x: {"landsat": x["srtm"]}, "images: landsat: unknown modality; the encoder takes: "),
        (lambda x: {"sentinel2_l2a": x["sentinel1"]}, r"images: sentinel2_l2a: \(1, 2, 2, 16, 16\) for B, T, C, H, W"),
    ],
)
def test_bad_images_are_one_line(run: Path, change: object, line: str) -> None:
    with pytest.raises(InputError, match=line):
        hybrid_patch.PixelEncoder.load(run, "cpu")(change(images()), DATES)  # type: ignore[operator]
    with pytest.raises(InputError, match="dates: none given, but sentinel2_l2a has a timestep for each date"):
        hybrid_patch.PixelEncoder.load(run, "cpu")(images())
