"""An exported model is the run's, bit for bit, and says nothing of the machine."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from building import TINY, trained_run

import hybrid_patch
from hybrid_patch.config.compose import compose
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.evaluate.evaluation import evaluate_run
from hybrid_patch.evaluate.options import EvaluateOptions
from hybrid_patch.export.write_export import write_export
from hybrid_patch.model.pretrained import begin_with, read_pretrained
from hybrid_patch.train.step import TrainingModule

DATES = ["2024-05-31", "2024-07-01"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("trained") / "run", *TINY)


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    folder = run.parent / "exported"
    write_export(run, folder, "MIT")
    return folder


def image(bands: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 3000, (24, 20, 2, bands)).astype(np.float32)


def test_the_embeddings_are_equal_bit_for_bit(run: Path, exported: Path) -> None:
    images = {"sentinel2_l2a": image(12)}
    expected = hybrid_patch.load(run, "cpu").embed(images, DATES)
    np.testing.assert_array_equal(hybrid_patch.load(exported, "cpu").embed(images, DATES), expected)


def test_the_files_hold_no_path_and_no_optimizer(run: Path, exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "config.json",
        "modalities.json",
        "model.safetensors",
    ]
    for path in exported.iterdir():
        assert str(run.parent).encode() not in path.read_bytes()
    modalities = json.loads((exported / "modalities.json").read_text())
    assert modalities["sentinel1"]["bands"] == ["vv", "vh"]
    assert len(modalities["sentinel1"]["mean"]) == 2
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlicense: MIT\n")
    assert "| sentinel1 | 10 m, series | vv " in card


def test_it_is_evaluated_as_the_run_is(run: Path, exported: Path, tmp_path: Path) -> None:
    words = (
        *("evaluation.tiles=2", "evaluation.train_pixels=60", "evaluation.knn_pixels=0", "evaluation.baselines=[]"),
        *("evaluation.few_labels=[]", "evaluation.seeds=1", "evaluation.pictures=0"),
    )
    reports = []
    for number, folder in enumerate((run, exported)):
        options = EvaluateOptions(run=folder, output=tmp_path / f"{number}.json", overrides=words)
        reports.append(evaluate_run(options, lambda: None)["scores"])
    assert reports[0] == reports[1]


def test_a_training_begins_with_it(run: Path, exported: Path) -> None:
    config = compose([*TINY, f"init.from={exported}", "seed=4"])
    torch.manual_seed(4)
    module = TrainingModule(config, open_source(config.data).modalities)
    before = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    begin_with(module.model, config.init, read_pretrained(str(exported)))
    expected = hybrid_patch.load(run, "cpu").network.state_dict()
    for name, tensor in module.model.state_dict().items():
        source = before if name.startswith("decoder") else expected
        assert torch.equal(tensor, source[name]), name


def test_a_hub_is_asked_for_its_copy(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = {"owner/name": str(exported)}.__getitem__  # type: ignore[attr-defined]
    hub.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert hybrid_patch.load("hf://owner/name", "cpu").run == exported
    with pytest.raises(InputError, match="hf://owner/other: cannot be had from the hub"):
        hybrid_patch.load("hf://owner/other")


def test_bad_input_is_one_line_and_writes_nothing(run: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists; give a new folder"):
        write_export(run, exported, "MIT")
    with pytest.raises(InputError, match="is an exported model already; give a run's folder"):
        write_export(exported, tmp_path / "again", "MIT")
    with pytest.raises(InputError, match="not a run directory"):
        write_export(tmp_path, tmp_path / "again", "MIT")
    assert not (tmp_path / "again").exists()


def test_a_damaged_export_is_named(exported: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "modalities.json"):
        folder = tmp_path / name
        folder.mkdir()
        for path in exported.iterdir():
            (folder / path.name).write_bytes(b"{" if path.name == name else path.read_bytes())
        with pytest.raises(InputError, match=rf"{name}"):
            hybrid_patch.load(folder)
