"""An upsampler is a class: the example of docs/extending.md as printed there, outside the package and inside a copy."""

import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from building import MODALITIES, TINY, make_batch, trained_run

import hybrid_patch
from hybrid_patch.config.compose import compose, frozen_config
from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.fields import annotations
from hybrid_patch.config.recipe import recipe, run_id
from hybrid_patch.config.schema import Transformer
from hybrid_patch.config.upsamplers import built_in, declared_options, listed_options, load_class
from hybrid_patch.cost.predict import predict
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.patchify import patchify
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.model.upsampler.bilinear import Bilinear
from hybrid_patch.model.upsampler.guided import Guided
from hybrid_patch.train.step import TrainingModule

ROOT = Path(__file__).parents[2]
TARGET = "upsampler._target_=my_package.LinearDetail"
LOOKS_AT_PIXELS = """

class Bands(Upsampler):
    needs_pixels = True

    def __init__(self, tokens: TokenSpec) -> None:
        super().__init__()

    def forward(self, grid, factor, positions, guide=None):
        assert guide is not None
        Bands.guides.append(guide)
        return FineTokens(grid, factor, positions)


Bands.guides = []
"""


def example(language: str) -> str:
    section = (ROOT / "docs/extending.md").read_text().partition("\n## An upsampler\n")[2].partition("\n## ")[0]
    block = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package of one's own, which can be imported."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_package.py").write_text(example("python") + LOOKS_AT_PIXELS)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("my_package", None)
    return folder


@pytest.mark.full
def test_a_class_outside_the_package_trains_resumes_embeds_and_is_planned(package: Path, tmp_path: Path) -> None:
    overrides = [*TINY, TARGET, "upsampler.rank=4"]
    straight = hybrid_patch.load(trained_run(tmp_path / "straight", *overrides, steps=3))
    resumed = hybrid_patch.load(trained_run(tmp_path / "resumed", *overrides, steps=3, stop_after=1))
    assert type(straight.network.encoder_upsampler).__name__ == "LinearDetail"
    assert straight.network.encoder_upsampler.get_parameter("basis").shape == (4, 32)
    assert straight.network.encoder_upsampler.get_parameter("basis").any()
    for name, tensor in straight.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor)
    srtm = np.random.default_rng(0).normal(500, 100, (16, 16, 1, 1)).astype(np.float32)
    assert np.isfinite(straight.embed({"srtm": srtm})).all()
    assert predict(compose(overrides)).parameters_of["encoder_upsampler"] == sum(
        parameter.numel() for parameter in straight.network.encoder_upsampler.parameters()
    )


@pytest.mark.full
def test_commands_train_and_resume_it_from_the_frozen_config(package: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{package}:{ROOT}"}
    run = tmp_path / "run"
    words = ["train", *TINY, TARGET, f"run_dir={run}", "trainer.steps=2"]
    for arguments in (words, ["resume", str(run)]):
        command = [sys.executable, "-m", "hybrid_patch", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    choice = frozen_config(run).upsampler
    assert choice == {"name": "LinearDetail", "_target_": "my_package.LinearDetail", "rank": 8}


def test_what_a_run_with_it_is_called_and_known_by(package: Path) -> None:
    config = compose([*TINY, TARGET])
    assert recipe(config)["upsampler"] == {"name": "LinearDetail", "_target_": "my_package.LinearDetail", "rank": 8}
    assert "_LinearDetail_" in run_id(config)
    assert run_id(config) == run_id(compose([*TINY, TARGET, "upsampler.rank=8"]))
    assert run_id(config) != run_id(compose([*TINY, TARGET, "upsampler.rank=9"]))


@pytest.mark.parametrize("name", built_in())
def test_the_target_of_a_built_in_one_is_its_name(name: str) -> None:
    cls = load_class({"name": name})
    config = compose([*TINY, f"upsampler={name}"])
    by_target = compose([*TINY, f"upsampler={name}", f"upsampler._target_={cls.__module__}.{cls.__name__}"])
    assert by_target.upsampler == config.upsampler
    assert run_id(by_target) == run_id(config)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            [TARGET, "upsampler.rnk=4"],
            "upsampler.rnk=4: unknown key; LinearDetail takes: name, rank (did you mean",
        ),
        ([TARGET, "upsampler.rank=many"], "upsampler.rank=many: must be a whole number"),
        ([TARGET, "upsampler.rank=0"], "upsampler.rank=0: must be greater than or equal to 1"),
        (["upsampler._target_=my_package.Linear"], "upsampler: _target_=my_package.Linear: cannot be imported"),
        (["upsampler._target_=no_package.X"], "upsampler: _target_=no_package.X: cannot be imported (No module"),
        (["upsampler._target_=math.sqrt"], "upsampler: _target_=math.sqrt: not an upsampler; must be a subclass of"),
        (["upsampler._target_=3"], "upsampler: _target_=3: cannot be imported"),
        (
            [TARGET, "patch.processing_patch_size=32", "data.tile=32"],
            "upsampler=LinearDetail: made for the",
        ),
        (
            ["++decoder.upsampler={_target_:my_package.LinearDetail,rank:0}"],
            "decoder.upsampler.rank=0: must be",
        ),
        (["++decoder.upsampler={_target_:my_package.Bands}"], "decoder.upsampler=Bands: needs pixels"),
        (["upsampler=subpixel", "upsampler.rank=0"], "upsampler.rank=0: must be greater than or equal to 1"),
        (["upsampler=guided", "upsampler.pixel_dropout=1.0"], "upsampler.pixel_dropout=1.0: must be less than 1"),
    ],
)
def test_bad_input_is_the_line_that_built_in_ones_give(package: Path, overrides: list[str], line: str) -> None:
    with pytest.raises(InputError) as error:
        compose([*TINY, "data.tile=16", "patch=hybrid", *overrides])
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_one_that_needs_pixels_gets_them_without_those_that_training_drops(package: Path) -> None:
    config = compose([*TINY, "upsampler._target_=my_package.Bands", "loss.decoded.weight=1"])
    assert config.upsampler.pixel_dropout == 0.5
    source = open_source(config.data)
    batch = TrainingSteps(source, config, 0, 1)[0]
    assert isinstance(batch, Batch)
    assert set(batch.guide_mask) == set(batch.encoded.each)
    assert all(0.4 < mask.float().mean() < 0.6 for mask in batch.guide_mask.values())
    module = TrainingModule(config, source.modalities)
    assert isinstance(module.model.decoder_upsampler, Bilinear)
    module(batch, PatchSizes(8, 1))["loss"].backward()
    guides = importlib.import_module("my_package").Bands.guides
    assert {guide.name for guide in guides} == set(batch.encoded.each)
    assert all(guide.guide_mask is batch.guide_mask[guide.name] for guide in guides)
    assert predict(config).parameters_of["encoder_upsampler"] == 0


@pytest.mark.full
def test_a_built_in_one_is_one_file_and_one_yaml(tmp_path: Path) -> None:
    for folder in ("hybrid_patch", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "hybrid_patch/model/upsampler/linear_detail.py").write_text(example("python"))
    (tmp_path / "conf/upsampler/linear_detail.yaml").write_text(example("yaml"))

    def train(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hybrid_patch.train", *TINY, "upsampler=linear_detail", *words]
        environment = os.environ | {
            "PYTHONPATH": str(tmp_path),
            "PYTHONPROFILEIMPORTTIME": "1" if len(words) == 1 else "",
        }
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)

    done = train("trainer.steps=1", "upsampler.rank=2", "+upsampler@decoder.upsampler=linear_detail")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "default").iterdir()
    assert "_linear_detail_" in run.name
    assert frozen_config_text(run).startswith("name: linear_detail\n  rank: 2\n")
    wrong = train("upsampler.rnk=2")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith(
        "error: upsampler.rnk=2: unknown key; linear_detail takes: name, rank"
    )
    assert not re.search(r"\| +torch$", wrong.stderr, re.MULTILINE)


def frozen_config_text(run: Path) -> str:
    return (run / "config.yaml").read_text().partition("\nupsampler:\n  ")[2]


@pytest.mark.parametrize("name", built_in())
def test_the_yaml_of_a_built_in_one_lists_what_its_class_declares(name: str) -> None:
    declared, listed = declared_options(load_class({"name": name})), listed_options(name)
    assert set(annotations(declared)) == set(annotations(listed))
    config = compose([f"upsampler={name}"])
    assert config.upsampler.is_default


def test_a_network_is_built_without_a_config() -> None:
    size = Transformer(width=32, depth=1, heads=4, mlp_ratio=2.0, drop_path=0.0)
    model = HybridModel(MODALITIES, [PatchSizes(8, 1)], size, size)
    assert isinstance(model.encoder_upsampler, Bilinear)
    upsampler = functools.partial(Guided, rank=4, random_features=2, deviation_radius=0, adapter=0)
    guided = HybridModel(MODALITIES, [PatchSizes(8, 1)], size, size, upsampler)
    assert isinstance(guided.decoder_upsampler, Bilinear)
    batch = make_batch(8)
    latents, grids = guided.encode({name: patchify(x, 8) for name, x in batch.pixels.items()}, batch)
    assert set(grids) == {"optical", "height"}
    assert set(guided.decode(latents, batch, 8)) == set(MODALITIES)
