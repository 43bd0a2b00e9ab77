"""Sweeps by name: files in Hydra's own sweep grammar, written out into members."""

from pathlib import Path

import pytest
from building import TINY
from config_commands import ran

from hybrid_patch.config.compose import compose
from hybrid_patch.config.recipe import run_id
from hybrid_patch.config.sources import Sources, conf_folder
from hybrid_patch.config.sweep import sweep_members
from hybrid_patch.errors import InputError

SWEEPS = sorted(path.stem for path in (conf_folder() / "sweep").glob("*.yaml"))


@pytest.mark.full
@pytest.mark.parametrize("name", SWEEPS)
def test_every_member_of_a_sweep_is_a_run_of_its_own_in_three_seeds(name: str) -> None:
    members = sweep_members([f"+sweep={name}", "model=nano"], Sources())
    configs = [compose(member) for member in members]
    assert len({run_id(config) for config in configs}) == len(members)
    assert {config.seed for config in configs} == {0, 1, 2}
    assert {config.sweep_name for config in configs} == {name}


def test_a_key_of_the_command_line_replaces_the_sweeps() -> None:
    assert sweep_members(["+sweep=upsampler", "seed=7", "upsampler=guided,learned"], Sources()) == [
        ["sweep_name=upsampler", "patch=hybrid", "seed=7", f"upsampler={name}"] for name in ("guided", "learned")
    ]


def folder_with(tmp_path: Path, text: str) -> Sources:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    return Sources(extra=tmp_path)


def test_a_sweep_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    sources = folder_with(tmp_path, "hydra:\n  sweeper:\n    params:\n      seed: range(0,2)\n      patch: ps8\n")
    assert sweep_members(["sweep=mine"], sources) == [[f"seed={seed}", "patch=ps8"] for seed in (0, 1)]


@pytest.mark.parametrize("text", ["seed: 3\n", "{}\n", "hydra:\n  sweeper:\n    params:\n      seed: 0,1\nseed: 3\n"])
def test_a_sweep_holds_nothing_else(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"^sweep=mine: a file in conf/sweep/ holds hydra\.sweeper\.params and"):
        sweep_members(["sweep=mine"], folder_with(tmp_path, text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep=upsampler", "+sweep=patch"], "sweep=upsampler +sweep=patch: one sweep at a time"),
        (["sweep=upsampler,patch"], "sweep=upsampler,patch: one sweep at a time"),
        (["sweep=upsampeler"], "sweep=upsampeler: no such option; takes: curriculum"),
    ],
)
def test_one_sweep_that_exists(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message.replace('+', '[+]')}"):
        sweep_members(arguments, Sources())


def test_a_sweep_needs_its_flag(tmp_path: Path) -> None:
    done = ran(tmp_path, "+sweep=upsampler")
    assert done.returncode == 2
    assert done.stderr == "error: +sweep=upsampler: a sweep, which needs -m\n"


@pytest.mark.full
def test_a_sweep_is_run_by_the_plugin_of_hydras_that_it_names(tmp_path: Path) -> None:
    done = ran(tmp_path, "-m", "+sweep=upsampler", "seed=0", "upsampler=bilinear,guided", "hydra/launcher=basic")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/upsampler/*/record.json"))) == 2


@pytest.mark.full
def test_a_sweep_runs_in_the_slots_of_this_machine(tmp_path: Path) -> None:
    """`train -m` becomes `launch run`, whose own tests are in tests/launch/test_run.py; here: all arrives there."""
    (tmp_path / "my conf" / "optimizer").mkdir(parents=True)
    text = (conf_folder() / "optimizer" / "adamw.yaml").read_text().replace("lr: 0.001", "lr: 0.5")
    (tmp_path / "my conf" / "optimizer" / "fast.yaml").write_text(text)
    words = [*TINY, "-m", "--config-dir", "my conf", "optimizer=fast", "trainer.steps=1", "seed=0,1", "data.tile=16,20"]
    done = ran(tmp_path, *words, "sweep_name=mine", module="hybrid_patch.train")
    assert done.returncode == 2
    assert done.stdout.endswith("2 of 4 done\n"), done.stderr
    assert done.stderr.count("data.tile=20: not divisible by") == 2
    configs = list(tmp_path.glob("runs/mine/*/config.yaml"))
    assert len(configs) == 2
    assert all("lr: 0.5\n" in config.read_text() for config in configs)
