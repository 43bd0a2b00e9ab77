"""Trainings that begin with OlmoEarth's weights: frozen, fine-tuned, taught by themselves; what comes out of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from building import TINY, trained_run
from olmoearth_pretrain_minimal import load_model_from_path
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.flexi_vit import PredictorConfig
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.latent_mim import LatentMIMConfig

import hybrid_patch
from hybrid_patch.config.compose import compose
from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.schema import Transformer
from hybrid_patch.cost.fake_step import fake_steps
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.export.write_export import write_export
from hybrid_patch.model.olmoearth.network import HIDDEN, network_config
from hybrid_patch.model.pretrained import read_pretrained
from hybrid_patch.runs.checkpoints import newest_checkpoint
from hybrid_patch.runs.directory import CHECKPOINTS
from hybrid_patch.train.attempt import train
from hybrid_patch.train.step import TrainingModule

SIZE = Transformer(width=32, depth=1, heads=4, mlp_ratio=2.0, drop_path=0.0)
OLMOEARTH = ("model=olmoearth_nano", *TINY, "data.modalities.srtm.decode_only=true", "trainer.steps=2")
SELF = (
    "target=self",
    "loss=visible",
    "masking=none",
    "upsampler.pixel_dropout=0",
    "target.windows=33",
    "target.window=8",
)
DATES = ["2024-05-31", "2024-07-01"]
MAPS = ["worldcover", "srtm"]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the package's loader reads it, of a small model with maps that it decodes."""
    folder = tmp_path_factory.mktemp("released")
    encoder = network_config("olmoearth_v1_2", SIZE)
    encoder.supported_modality_names += MAPS
    decoder = PredictorConfig(
        supported_modality_names=encoder.supported_modality_names,
        encoder_embedding_size=SIZE.width,
        decoder_embedding_size=SIZE.width,
        tokenization_config=encoder.tokenization_config,
        position_encoding=encoder.position_encoding,
    )
    config = LatentMIMConfig(encoder_config=encoder, decoder_config=decoder)
    masking = {"masking_config": {"strategy_config": {"only_decode_modalities": MAPS}}}
    described = {"model": config.as_config_dict(), "train_module": masking}
    (folder / "config.json").write_text(json.dumps(described))
    torch.manual_seed(1)
    torch.save(config.build().state_dict(), folder / "weights.pth")
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(run / CHECKPOINTS)
    assert checkpoint is not None
    return checkpoint.state["model"]


@pytest.fixture(scope="module")
def frozen(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("frozen") / "run"
    words = [*OLMOEARTH, *SELF, f"init.from={released}", "init.freeze=[encoder]", "model.centre_positions=true"]
    assert train(compose([*words, f"run_dir={run}"])) == 0
    return run


def test_a_frozen_encoder_teaches_its_upsampler_and_stays_as_it_was_released(released: Path, frozen: Path) -> None:
    package, after = load_model_from_path(released).encoder.state_dict(), weights(frozen)
    ours = {
        name.removeprefix("encoder.network."): x for name, x in after.items() if name.startswith("encoder.network.")
    }
    assert "blocks.0.attn.rope_mixed_freqs" in ours
    for name, tensor in ours.items():
        assert torch.equal(tensor, package[name]), name


def test_it_is_fine_tuned_with_the_projections_as_targets(released: Path, tmp_path: Path) -> None:
    assert train(compose([*OLMOEARTH, f"init.from={released}", f"run_dir={tmp_path / 'run'}"])) == 0
    before, after = read_pretrained(str(released)).weights, weights(tmp_path / "run")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert "encoder.network.blocks.0.attn.rope_mixed_freqs" in changed
    assert not any("landsat" in name or "month" in name for name in changed)


def test_location_tokens_are_trained_and_embedded(tmp_path: Path) -> None:
    words = ("model.architecture=olmoearth_v1_3", "patch=ps1", "upsampler=bilinear", "loss.max_queries=64")
    run = trained_run(tmp_path / "run", *OLMOEARTH, *words)
    embedding = hybrid_patch.load(run, "cpu").embed({"sentinel1": images(1)["sentinel1"]}, DATES)
    assert embedding.shape == (24, 20, 32)
    assert np.isfinite(embedding).all()


def images(samples: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"sentinel2_l2a": 12, "sentinel1": 2}
    return {name: rng.uniform(0, 3000, (24, 20, 2, bands)).astype(np.float32) for name, bands in shapes.items()}


def test_exported_models_and_modules_give_the_runs_embeddings(frozen: Path, tmp_path: Path) -> None:
    write_export(frozen, tmp_path / "exported", "MIT")
    model, exported = (hybrid_patch.load(folder, "cpu") for folder in (frozen, tmp_path / "exported"))
    expected = model.embed(images(1), DATES)
    np.testing.assert_array_equal(exported.embed(images(1), DATES), expected)
    window = {name: x[:16, :16] for name, x in images(1).items()}
    given = {name: torch.from_numpy(x).permute(2, 3, 0, 1)[None].requires_grad_() for name, x in window.items()}
    features = hybrid_patch.PixelEncoder(exported)(given, DATES)
    np.testing.assert_allclose(
        features[0].detach().permute(1, 2, 0).numpy(), model.embed(window, DATES), rtol=1e-5, atol=1e-5
    )
    features.square().sum().backward()
    assert all(x.grad is not None and bool(x.grad.any()) for x in given.values())


def test_the_plan_counts_its_weights_and_products() -> None:
    config = compose([*OLMOEARTH, "patch=ps8", "loss=visible", "loss.visible.weight=1"])
    modalities, samples = open_source(config.data).modalities, 2
    (record,), tokens, parameters = fake_steps(config, modalities, PatchSizes(8, 8), [samples])
    encoder = TrainingModule(config, modalities).model.encoder
    assert parameters["encoder"] == sum(x.numel() for x in encoder.parameters() if x.requires_grad)
    width, pixels, bands = SIZE.width, 16 * 16 * 2, (12, 2)
    products = tokens.encoder * (4 * width**2 + 2 * width * int(width * SIZE.mlp_ratio)) + 2 * tokens.encoder**2 * width
    assert record.flops["forward"]["encoder"] == 2 * samples * products
    embedding = pixels * HIDDEN * (sum(bands) + len(bands) * width)
    assert record.flops["forward"]["embedding"] == 2 * samples * embedding


def test_weights_of_another_model_are_one_line(released: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its encoder is another: encoder\.network\..*; choose a model like it"):
        train(compose([*OLMOEARTH, f"init.from={released}", "model.encoder.width=64", f"run_dir={tmp_path / 'wide'}"]))
    other = tmp_path / "other"
    shutil.copytree(released, other)
    described = json.loads((other / "config.json").read_text())
    described["model"]["encoder_config"]["rope_temporal_coordinate_scale"] = 1.0
    (other / "config.json").write_text(json.dumps(described))
    with pytest.raises(
        InputError, match=r"another: rope_temporal_coordinate_scale is 1\.0 in its config\.json, 0\.0333"
    ):
        train(compose([*OLMOEARTH, f"init.from={other}", f"run_dir={tmp_path / 'run'}"]))


@pytest.mark.parametrize("content", [None, "{", '{"model": {}}'])
def test_a_folder_without_its_config_is_one_line(released: Path, tmp_path: Path, content: str | None) -> None:
    (tmp_path / "weights.pth").write_bytes((released / "weights.pth").read_bytes())
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        read_pretrained(str(tmp_path))
