"""The command line as processes: exit codes, one line per error, nothing heavy imported, Hydra's flags."""

import json
from pathlib import Path

import pytest
from config_commands import ran
from config_stand_in import LATE_BAD_INPUT, RAISES, STOPPED


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["upsampler.scal=3"], "error: upsampler.scal=3: unknown key; guided takes: name, rank"),
        (["data=rasters", "data.root=no, such"], "error: data.root=no, such: there is no such folder"),
        (["--surely-not"], "error: unrecognized arguments: --surely-not"),
        (["-m", "run_dir=x", "seed=0,1"], "error: run_dir=x: each member has its own"),
        (["-m", "run_dir=x", "seed=0,1", "hydra/launcher=basic"], "error: run_dir=x: each member has its own"),
        (["-m", "seed=0,1", "hydra/sweeper=optuna"], "error: hydra/sweeper=optuna: sweepers of Hydra's are not used; "),
        (["+search=upsampler"], "error: +search=upsampler: a search, which is made by hybrid-patch launch search"),
        (["-m", "upsampler.scal=3", "seed=0,1"], "error: upsampler.scal=3: unknown key; guided takes: name, rank"),
        (["--cfg", "job", "upsampler=no"], "error: upsampler=no: no such option; takes: bilinear, guided, learned"),
        (["-m", "--cfg", "job"], "error: --multirun --cfg: only one of them at a time"),
        (["-cn", "surely_not"], "error: "),
        (["-cd", "surely_not"], "error: --config-dir="),
        (["data=rasters", b"data.root=not-utf8-\xff".decode(errors="surrogateescape")], "error: data.root="),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], start: str, tmp_path: Path) -> None:
    done = ran(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(start)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_bad_input_ends_the_training_before_torch_is_imported(tmp_path: Path) -> None:
    done = ran(tmp_path, "upsampler.scal=3", module="hybrid_patch.train", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 2
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert not {name for name in imported if name.split(".")[0] in ("torch", "lightning", "wandb", "rasterio", "h5py")}
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    options = "name, rank, random_features, deviation_radius, adapter, pixel_dropout"
    assert line == f"error: upsampler.scal=3: unknown key; guided takes: {options}"


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("steps", "code", "lines"), [(10, 0, 0), (STOPPED, 75, 0), (LATE_BAD_INPUT, 2, 1)], ids=["done", "stopped", "late"]
)
def test_the_exit_code_is_what_the_training_returns(steps: int, code: int, lines: int, tmp_path: Path) -> None:
    done = ran(tmp_path, f"trainer.steps={steps}")
    assert done.returncode == code
    assert done.stderr.count("\n") == lines
    assert {path.parent.parent.name for path in tmp_path.rglob("record.json")} == {"default"}
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # Hydra leaves nothing behind


def test_an_exception_shows_its_traceback_and_is_exit_code_1(tmp_path: Path) -> None:
    done = ran(tmp_path, f"trainer.steps={RAISES}")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: broken on purpose" in done.stderr


def test_hostile_paths_reach_the_training_which_sees_the_line_as_typed(tmp_path: Path) -> None:
    folder = tmp_path / "a, b=[c] 'd' ${seed} é"
    folder.mkdir()
    typed = ["data=rasters", f"data.root={folder}", "run_dir=out, ${x}=1"]
    done = ran(tmp_path, *typed)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out, ${x}=1" / "record.json").read_text())
    assert record["root"] == str(folder)
    assert record["argv"] == typed  # what DDP starts its other processes with
    assert not record["torch"]


def test_flags_may_stand_between_overrides(tmp_path: Path) -> None:
    assert ran(tmp_path, "seed=1", "--run", "trainer.steps=3").returncode == 0


@pytest.mark.full
def test_hydras_flags(tmp_path: Path) -> None:
    printed = ran(tmp_path, "--cfg", "job", "--resolve", "-p", "curriculum", "patch=ps8")
    assert printed.returncode == 0
    assert "output_patch_size: 8" in printed.stdout
    unfinished = ran(tmp_path, "--cfg", "job", "data=rasters")
    assert unfinished.returncode == 0
    assert "root: ???" in unfinished.stdout
    listed = ran(tmp_path, "--info", "defaults-tree")
    assert listed.returncode == 0
    assert "upsampler" in listed.stdout
    completed = ran(tmp_path, "-sc", "query=bash", COMP_LINE="train.py upsampler=")
    assert completed.stdout.split() == [
        "upsampler=bilinear",
        "upsampler=guided",
        "upsampler=learned",
        "upsampler=nearest",
        "upsampler=subpixel",
        "upsampler=transposed",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
def test_a_folder_of_ones_own_configs(tmp_path: Path) -> None:
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    text = Path(__file__).parents[2].joinpath("conf/optimizer/adamw.yaml").read_text().replace("lr: 0.001", "lr: 0.5")
    (tmp_path / "mine" / "optimizer" / "fast.yaml").write_text(text)
    printed = ran(tmp_path, "--config-dir", "mine", "optimizer=fast", "--cfg", "job", "-p", "optimizer.lr")
    assert printed.stdout.strip() == "0.5"
    assert ran(tmp_path, "-cd", "mine", "optimizer=fast").returncode == 0
    assert len(list(tmp_path.rglob("record.json"))) == 1
    wrong = ran(tmp_path, "-cd", "mine", "optimizer=slow")
    assert wrong.stderr == "error: optimizer=slow: no such option; takes: adamw, fast\n"
