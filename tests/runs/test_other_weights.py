"""A checkpoint that another version of the model saved is refused with one line, wherever it is loaded."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from building import TINY

import hybrid_patch
from hybrid_patch.errors import InputError
from hybrid_patch.runs.checkpoint_files import list_checkpoints

KEY = "encoder.transformer.blocks.0.attention.out.weight"


def renamed(weights: dict[str, Any]) -> None:
    weights["encoder.transformer.blocks.0.attention.proj.weight"] = weights.pop(KEY)


def reshaped(weights: dict[str, Any]) -> None:
    weights[KEY] = torch.zeros(32, 16)


def added(weights: dict[str, Any]) -> None:
    weights["encoder.gain"] = torch.zeros(1)


CHANGES: dict[Callable[[dict[str, Any]], None], str] = {
    renamed: f"model.{KEY} is absent there, [32, 32] here",
    reshaped: f"model.{KEY} is [32, 16] there, [32, 32] here",
    added: "model.encoder.gain is [1] there, absent here",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    done = command("train", *TINY, "trainer.steps=2", f"run_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", f"hybrid_patch.{name}", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


def changed(run: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The run's checkpoint, its weights changed."""
    ((_, path),) = list_checkpoints(run / "checkpoints")
    original = path.with_suffix(".original")
    if not original.exists():
        path.rename(original)
    state = torch.load(original, weights_only=True)
    change(state["model"])
    torch.save(state, path)
    return path


@pytest.mark.sample(1)
@pytest.mark.parametrize("change", CHANGES)
def test_load_names_the_file_the_weight_and_what_to_do(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = changed(run, change)
    with pytest.raises(InputError) as error:
        hybrid_patch.load(run)
    assert str(error.value) == (
        f"{path}: saved by another version of hybrid_patch ({CHANGES[change]}); use that version, or remove "
        f"{path.parent} to begin the run anew"
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("runtime", ["cpu", "ddp", "fsdp"])
def test_a_training_ends_with_one_line(run: Path, runtime: str) -> None:
    path = changed(run, renamed)
    (run / "status.json").unlink(missing_ok=True)
    resumed = command("train", *TINY, "trainer.steps=2", f"run_dir={run}", f"runtime={runtime}", "runtime.device=cpu")
    assert_one_line(resumed, path)


@pytest.mark.full
def test_an_evaluation_ends_with_one_line(run: Path) -> None:
    assert_one_line(command("evaluate", f"run={run}"), changed(run, renamed))


def assert_one_line(done: subprocess.CompletedProcess[str], path: Path) -> None:
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert error.startswith(f"error: {path}: saved by another version of hybrid_patch (model.{KEY} is absent there")
