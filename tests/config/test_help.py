"""Every command says what it takes and which version it is, in one style, and starts nothing for that."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

import hybrid_patch
from hybrid_patch.__main__ import COMMANDS
from hybrid_patch.config.hydra_main import flag_parser
from hybrid_patch.config.sources import Sources
from hybrid_patch.config.train_help import GROUPS, train_help

ROOT = Path(__file__).parents[2]
LAUNCH = ("plan", "submit", "run", "status", "wait", "logs", "cancel", "resume", "report", "query", "diff", "search")
DOORS = [
    ["hybrid_patch"],
    *(["hybrid_patch", name] for name in COMMANDS),
    *([door] for door in ("hybrid_patch.train", "launch")),
    *(["launch", name] for name in LAUNCH),
    ["tests.tools.export"],
    ["tests.tools.check_memory"],
    ["tests.tools.fine_tokens"],
    ["tests.gpu.gpu_check"],
]


def called(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.sample(3)
@pytest.mark.parametrize("door", DOORS, ids=" ".join)
def test_help_only_says(door: list[str], tmp_path: Path) -> None:
    done = called(tmp_path, *door, *(["seed=0,1", "-m"] if door[-1].endswith("train") else []), "-h")
    assert done.returncode == 0
    assert done.stderr == ""
    assert re.match(r"usage: (hybrid-patch|python -m) ?.*\n\n[A-Z]", done.stdout)
    assert done.stdout.partition("\n")[0].count("[key=value ...]") <= 1
    assert "\n  --help, --version  " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("door", [["hybrid_patch"], ["hybrid_patch", "train"], ["hybrid_patch", "plan"], ["launch"]])
def test_version(door: list[str], tmp_path: Path) -> None:
    done = called(tmp_path, *door, "--version")
    assert (done.returncode, done.stdout) == (0, f"hybrid_patch {hybrid_patch.__version__}\n")


@pytest.mark.sample(1)
@pytest.mark.parametrize("line", ["hybrid_patch.train --help", "hybrid_patch.train --cfg job", "hybrid_patch.embed -h"])
def test_a_reader_that_leaves_early_sees_no_traceback(line: str, tmp_path: Path) -> None:
    program = f"{sys.executable} -m {line} | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_an_unknown_command_is_one_line(tmp_path: Path) -> None:
    done = called(tmp_path, "hybrid_patch", "trian")
    assert done.returncode == 2
    takes = "train, finetune, evaluate, embed, export, mirror, report, "
    assert done.stderr.startswith(f"error: trian: no such command; takes: {takes}")
    assert done.stderr.endswith("(did you mean train?)\n")


def test_the_help_of_train_explains_every_group_and_value() -> None:
    text = train_help("Train.", [])
    assert set(GROUPS) == set(Sources().groups()) - {"cluster", "modality", "search"}
    groups, values = text.partition("Groups:\n")[2].split("Values, as they are with these arguments:\n")
    for group in GROUPS:
        assert re.search(rf"^  {group}=OPTION +\S", groups, re.MULTILINE)
    assert "hydra/" not in text
    assert "cluster" not in groups
    entries = re.findall(r"^  (\S+=.*)\n?((?: {30,}.*\n)*)", values, re.MULTILINE)
    assert len(entries) > 80
    for first, rest in entries:
        assert rest.strip() or len(first.split("  ", 1)) == 2, first


@pytest.mark.parametrize("upsampler", ["guided", "learned", "subpixel"])
@pytest.mark.parametrize("data", ["olmoearth", "rasters"])
def test_the_help_of_train_shows_the_values_of_other_options(upsampler: str, data: str) -> None:
    text = train_help("Train.", [f"upsampler={upsampler}", f"data={data}"])
    for key in ("data.root=???", "upsampler.width=" if upsampler == "learned" else "upsampler.rank="):
        assert re.search(rf"^  {re.escape(key)}\S* +\w", text, re.MULTILINE), key


def test_the_flags_are_those_of_hydras_own_parser() -> None:
    """Hydra's parser is private, so ours is compared with it; --help and --version are answered before."""
    ours, theirs = (
        {
            tuple(sorted(action.option_strings)): (action.nargs, action.const, tuple(action.choices or ()))
            for action in parser._actions
        }
        for parser in (flag_parser(), get_args_parser())
    )
    assert ours == {flags: what for flags, what in theirs.items() if not {"--help", "--version"} & set(flags)}
