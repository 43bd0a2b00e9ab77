"""`continue_from`: a training that goes on from another run's state."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from building import TINY
from config_commands import ran
from resumed_runs import metrics, same

from hybrid_patch.config.compose import compose, frozen_config
from hybrid_patch.config.curriculum import samples_before
from hybrid_patch.config.recipe import identity
from hybrid_patch.config.schema import Config
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.resume import ResumeOptions, resume
from hybrid_patch.runs.checkpoint_files import checkpoint_path
from hybrid_patch.train.attempt import train
from launch.config import read_cluster
from launch.submit import request_sweep

CONSTANT = ("optimizer.warmup=0", "optimizer.final_lr_ratio=1")
"""A learning rate that does not depend on the number of steps."""
FIRST, ALL = 2, 5


def trained(folder: Path, *words: str) -> Path:
    assert train(compose([*words, f"run_dir={folder}"])) == 0
    return folder


def state(folder: Path, step: int = ALL) -> dict[str, Any]:
    return torch.load(checkpoint_path(folder / "checkpoints", step), weights_only=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the first steps."""
    words = (*TINY, *CONSTANT, "upsampler=bilinear", "curriculum=fixed", f"trainer.steps={FIRST}", "sweep_name=a")
    return trained(tmp_path_factory.mktemp("first") / "run", *words)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all steps."""
    words = (*TINY, *CONSTANT, "upsampler=bilinear", f"trainer.steps={ALL}")
    return trained(tmp_path_factory.mktemp("straight") / "run", *words)


def test_a_longer_training_is_that_of_one_run_to_the_last_bit(first: Path, straight: Path, tmp_path: Path) -> None:
    """Also where it is killed after its source has vanished: first with a checkpoint, then before any step."""
    shutil.copytree(first, source := tmp_path / "source")
    run = trained(tmp_path / "run", f"continue_from={source}", f"trainer.steps={ALL}", "trainer.checkpoint_every=1")
    assert same(state(run), state(straight))
    assert metrics(run) == metrics(straight)
    shutil.rmtree(source)
    (run / "status.json").unlink()  # as kill -9 leaves it
    checkpoint_path(run / "checkpoints", ALL).unlink()
    assert resume(ResumeOptions(run=run)) == 0
    assert same(state(run), state(straight))
    assert metrics(run) == metrics(straight)
    (run / "status.json").unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="its checkpoint of step 2 is gone, or another now; start anew, from its newe"):
        resume(ResumeOptions(run=run))
    shutil.copytree(first, source)
    assert resume(ResumeOptions(run=run)) == 0
    assert same(state(run), state(straight))


def test_its_config_is_the_runs_with_overrides_on_top(first: Path) -> None:
    before, now = (
        compose([*words, f"trainer.steps={ALL}"])
        for words in ([*TINY, *CONSTANT, "upsampler=bilinear"], [f"continue_from={first}"])
    )
    assert now.continue_from is not None
    assert (now.run_dir, now.sweep_name) == (None, "default")  # where a run lives is not taken over
    assert {**vars(now), "continue_from": None} == vars(before)
    chosen = compose([f"continue_from={first}", "trainer.steps=9", "curriculum=mixed", "optimizer.lr=1e-4", "seed=3"])
    assert (chosen.curriculum.name, len(chosen.curriculum.stages), chosen.optimizer.lr) == ("mixed", 4, 1e-4)
    assert (chosen.model, chosen.optimizer.warmup, chosen.seed) == (before.model, 0, 3)
    finer = compose([f"continue_from={first}", "trainer.steps=9", "patch.output_patch_size=2"])
    assert finer.curriculum.stages[0].output_patch_size == 2  # as the curriculum of the run says


def test_another_curriculum_other_weights_of_terms_and_batches(first: Path, tmp_path: Path) -> None:
    """Targets of other patch sizes are made as in a run that had them from the start."""
    curriculum = "curriculum.stages=[{processing_patch_size:8,output_patch_size:2,share:1.0}]"
    words = (
        curriculum,
        "patch.output_patch_size=2",
        "loss.visible.weight=0.5",
        "masking.encode_ratio=0.3",
        "trainer.batch_size=3",
    )
    run = trained(tmp_path / "run", f"continue_from={first}", f"trainer.steps={ALL}", *words)
    before, after = state(first, FIRST)["objective"], state(run)["objective"]
    assert "targets.srtm_ps2" in after.keys() - before.keys()
    assert "targets.srtm_ps1" in before.keys() - after.keys()
    row = metrics(run)[-1]
    assert (row["step"], row["output_patch_size"], len(metrics(run))) == (ALL, 2, ALL)


def test_samples_go_on_where_they_were(first: Path) -> None:
    """Also with another batch size, and in a run that goes on from one that has gone on."""
    config = compose([f"continue_from={first}", "trainer.steps=9", "trainer.batch_size=3"])
    assert [samples_before(config, step) for step in (FIRST, FIRST + 1)] == [4, 7]
    positions: list[int] = []

    class Recorded(TrainingSteps):
        def _sample(self, position: int, sizes: Any) -> Any:
            positions.append(position)
            return super()._sample(position, sizes)

    Recorded(open_source(config.data), config, 0, 1)[FIRST]
    assert positions == [4, 5, 6]


def test_ids_tell_the_state_that_a_run_goes_on_from(first: Path, straight: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(first)
    runs = [compose([f"continue_from={path}", "trainer.steps=9"]) for path in (first, tmp_path / "moved", straight)]
    ids = [identity(config)["recipe_hash"] for config in runs]
    assert ids[0] == ids[1] != ids[2]
    assert "continue_from" not in identity(compose(TINY))["recipe"]


@pytest.mark.full
def test_a_sweep_of_schedules(first: Path) -> None:
    words = [f"continue_from={first}", "trainer.steps=4,6", "optimizer.lr=1e-3,1e-4", "sweep_name=longer"]
    request = request_sweep(words, read_cluster([]))
    configs = [each.config for each in request.valid]
    assert [config.trainer.steps for config in configs] == [4, 4, 6, 6]
    begun = {config.continue_from for config in configs}
    assert [each.step for each in begun if each is not None] == [FIRST]
    assert configs == [compose(each.member.arguments) for each in request.valid]


def test_the_config_is_printed(first: Path, tmp_path: Path) -> None:
    words = ["--cfg", "job", f"continue_from={first}", "trainer.steps=9"]
    printed = ran(tmp_path, *words)
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "config.yaml").write_text(printed.stdout)
    assert frozen_config(tmp_path) == compose(words[2:])
    refused = ran(tmp_path, "-m", "hydra/launcher=basic", *words[2:])  # Hydra composes its members by itself
    assert (refused.returncode, refused.stderr.partition(";")[0]) == (
        2,
        "error: continue_from: not with a launcher of Hydra's",
    )


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([f"trainer.steps={FIRST}"], "trainer.steps=2: continue_from={run} has made 2 steps; try 4"),
        ([], "trainer.steps=2: continue_from={run} has made 2 steps; try 4"),
        (["model.encoder.width=64"], "model.encoder.width=64: another model than that of continue_from={run}; leave"),
        (["upsampler=learned"], "upsampler=learned: another upsampler than that of continue_from={run}; leave that"),
        (["init.freeze=[encoder]"], "init.freeze=[encoder]: another init than that of continue_from={run}; leave"),
        (["data.modalities.srtm.gsd=30"], "data.modalities.srtm.gsd=30: another data.modalities than that of"),
        (["loss.instance.weight=1", "masking.views=2"], "loss.instance.weight=1: a term can be weighed anew, but not"),
        (["~data.modalities.srtm"], "~data.modalities.srtm: with continue_from the config is the run's; set single"),
        (["experiment=demo"], "experiment=demo: with continue_from the config is the run's; set single values, or"),
        (["continue_from=nowhere"], "continue_from=nowhere: there is no such folder; give a run's folder (what has"),
        (["continue_from=."], "continue_from=.: holds no run; give a run's folder (what has begun goes on by hybrid-"),
        (["optimiser.lr=1"], 'optimiser={{"lr": 1}}: unknown key; the config takes: seed, patch,'),
    ],
)
def test_what_does_not_fit_is_one_line(first: Path, words: list[str], line: str) -> None:
    steps = [] if any("steps" in word for word in words) or not words else ["trainer.steps=9"]
    with pytest.raises(InputError) as error:
        compose([f"continue_from={first}", *steps, *words])
    assert str(error.value).startswith(line.format(run=first))
    assert "\n" not in str(error.value)


def test_weights_of_another_shape_are_one_line(first: Path, tmp_path: Path) -> None:
    sizes = ("patch.processing_patch_size=4", "trainer.steps=9", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(
        InputError, match=r"continue_from=.*: the config gives other weights \(model\..* is \[.*here\);"
    ):
        train(compose([f"continue_from={first}", *sizes]))


def test_a_finished_run_that_is_asked_for_more_steps_says_how(first: Path) -> None:
    config: Config = frozen_config(first)
    assert train(config) == 0
    with pytest.raises(InputError, match=rf"another directory, and continue_from={first} trainer.steps=9 to go on"):
        train(compose([*TINY, *CONSTANT, "upsampler=bilinear", "trainer.steps=9", f"run_dir={first}"]))
    assert (
        f"for more steps: hybrid-patch train continue_from={first} trainer.steps=4" in (first / "log.txt").read_text()
    )
