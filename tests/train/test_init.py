"""Weights that a training begins with, and parts that stay as they are."""

import dataclasses
from pathlib import Path

import pytest
import torch
from building import TINY, trained_run

from hybrid_patch.config.compose import compose
from hybrid_patch.config.recipe import identity
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.model.pretrained import begin_with, read_pretrained
from hybrid_patch.runs.checkpoints import newest_checkpoint
from hybrid_patch.runs.directory import CHECKPOINTS
from hybrid_patch.train.attempt import as_pretrained, train
from hybrid_patch.train.step import TrainingModule

QUICK = (*TINY, "trainer.steps=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("before") / "run", *TINY)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    assert checkpoint is not None
    return checkpoint.state["model"]


def test_a_frozen_part_of_another_run_stays_as_it_was(run: Path, tmp_path: Path) -> None:
    words = [*QUICK, f"init.from={run}", "init.freeze=[encoder]", "seed=5", f"run_dir={tmp_path / 'run'}"]
    assert train(compose(words)) == 0
    before, after = weights(run), weights(tmp_path / "run")
    for name, tensor in after.items():
        if name.startswith("encoder.") and "months" not in name:
            assert torch.equal(tensor, before[name]), name
    learned = [
        name for name in after if name.startswith("encoder_upsampler.") and not torch.equal(after[name], before[name])
    ]
    assert learned


def test_parts_that_are_not_named_begin_anew(run: Path) -> None:
    config = compose([*QUICK, f"init.from={run}", "init.parts=[encoder]", "seed=5"])
    torch.manual_seed(5)
    module = TrainingModule(config, open_source(config.data).modalities)
    before = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    begin_with(module.model, config.init, read_pretrained(str(run)))
    saved, after = weights(run), module.model.state_dict()
    for name, tensor in after.items():
        source = saved if name.startswith(("encoder.", "whitening.")) else before
        assert torch.equal(tensor, source[name]), name


def test_values_are_normalised_as_they_were(run: Path) -> None:
    """Weights are of no use with other statistics."""
    data = compose(QUICK).data
    source, pretrained = open_source(data), read_pretrained(str(run))
    before = dataclasses.replace(pretrained.modalities["sentinel2_l2a"], mean=(5.0,) * 12, std=(7.0,) * 12)
    others = {"sentinel2_l2a": before, "sentinel1": dataclasses.replace(before, gsd=20.0)}
    changed = as_pretrained(data, source, pretrained._replace(modalities=others)).modalities
    assert (changed["sentinel2_l2a"].mean, changed["sentinel2_l2a"].std) == (before.mean, before.std)
    assert changed["sentinel1"] == source.modalities["sentinel1"]  # its bands are others


def test_the_recipe_has_the_weights_wherever_they_lie(run: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(run)
    words = [*QUICK, "init.freeze=[encoder]"]
    first, moved, none = (
        identity(compose([*words, *more])) for more in ([f"init.from={run}"], [f"init.from={tmp_path / 'moved'}"], [])
    )
    assert first["recipe_hash"] == moved["recipe_hash"] != none["recipe_hash"]
    assert first["recipe"]["init"]["fingerprint"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["init.from=nowhere"], "init.from=nowhere: there is no such folder; give a run's folder, an exported"),
        (["init.from=."], "init.from=.: holds no weights; give a run's folder"),
        (["init.parts=[encoder]"], "init.parts=['encoder']: of no weights; give init.from=FOLDER, or null"),
        (["init.freeze=[encoder,upsampler]"], "init.freeze=['encoder', 'upsampler']: leaves nothing to train"),
        (["model.centre_positions=true"], "model.centre_positions=true: the means of places are those of a frozen"),
        (
            ["target=self", "masking=none"],
            "loss.decoded.weight=1: target=self compares visible tokens alone; try 0, or loss=visible",
        ),
        (["target=self", "loss=visible", "masking=none", "patch=ps8"], "patch.output_patch_size=8: target=self is at"),
        (["target=self", "loss=visible", "masking=none", "target.window=12"], "target.window=12: not divisible by"),
        (
            ["target=self", "loss=visible", "masking=none", "loss.target_patch_size=processing"],
            "loss.target_patch_size=processing: target=self compares tokens at patch size 1; try output",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        train(compose([*QUICK, *words, f"run_dir={tmp_path / 'run'}"]))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_weights_of_another_size_are_one_line(run: Path, tmp_path: Path) -> None:
    words = [*QUICK, "model.encoder.width=48", f"init.from={run}", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(InputError, match=r"its encoder is another: .* is \[.*\] there, \[.*\] here; choose a model"):
        train(compose(words))


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "encoder.pt").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"encoder\.pt"):
        read_pretrained(str(tmp_path))
