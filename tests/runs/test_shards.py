"""Checkpoints in shards: on another number of processes, after a rank was killed, with a part lost, and for `load`."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from building import TINY
from ranks import TERMS, Ranked, same_to, state_of, train_together, weights_of
from resumed_runs import metrics, same, wait_for_step

import hybrid_patch
from hybrid_patch.errors import InputError
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.runs.checkpoint_files import list_checkpoints
from hybrid_patch.runs.checkpoints import newest_checkpoint
from hybrid_patch.runs.sharded_checkpoint import read_sharded

pytestmark = pytest.mark.faults

STEPS, EVERY = 24, 4
COMMON = (f"trainer.steps={STEPS}", f"trainer.checkpoint_every={EVERY}", "trainer.keep_checkpoints=9")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without a stop, on two processes in shards (`fsdp`) and on one (`single`)."""
    folder = tmp_path_factory.mktemp("straight")
    train_together(
        folder,
        Ranked(str(folder / "fsdp"), 2, ("runtime=fsdp", *COMMON)),
        Ranked(str(folder / "single"), 1, COMMON),
    )
    return folder


def without_its_end(run_dir: Path, copy: Path) -> Path:
    """A copy of a run, as if it had been killed right before its last checkpoint."""
    shutil.copytree(run_dir, copy)
    (copy / "status.json").unlink()
    _, path = list_checkpoints(copy / "checkpoints")[-1]
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copy


def test_any_number_of_processes_goes_on_with_them(straight: Path, tmp_path: Path) -> None:
    ways = {"2": (2, "fsdp"), "1": (1, "fsdp"), "4": (4, "fsdp"), "ddp": (2, "ddp"), "single": (1, "cpu")}
    runs = [
        Ranked(str(without_its_end(straight / "fsdp", tmp_path / name)), processes, (f"runtime={runtime}", *COMMON))
        for name, (processes, runtime) in ways.items()
    ]
    whole = without_its_end(straight / "single", tmp_path / "whole")
    runs.append(Ranked(str(whole), 2, ("runtime=fsdp", *COMMON)))
    train_together(tmp_path, *runs)
    assert metrics(tmp_path / "2") == metrics(straight / "fsdp")
    assert same(state_of(tmp_path / "2"), state_of(straight / "fsdp"))
    for run in runs:
        folder = Path(run.folder)
        assert [row["step"] for row in metrics(folder)] == list(range(1, STEPS + 1))
        assert f"going on after step {STEPS - EVERY}" in (folder / "log.txt").read_text()
        same_to(1e-6, weights_of(folder), weights_of(straight / ("single" if folder == whole else "fsdp")))
    names = {name: list_checkpoints(tmp_path / name / "checkpoints")[-1][1].suffix for name in (*ways, "whole")}
    assert names == {"2": ".shards", "1": ".shards", "4": ".shards", "ddp": ".pt", "single": ".pt", "whole": ".shards"}


def test_after_one_rank_was_killed_all_end_and_all_go_on(straight: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "hybrid_patch.train", *TINY, *TERMS, *COMMON]
    line += ["runtime=fsdp", "runtime.device=cpu", f"run_dir={tmp_path}"]
    for step, other in ((EVERY + 1, True), (3 * EVERY + 1, False)):
        first = subprocess.Popen(line, text=True, stderr=subprocess.DEVNULL)
        wait_for_step(tmp_path, step, first)
        (second,) = psutil.Process(first.pid).children()
        os.kill(second.pid if other else first.pid, signal.SIGKILL)
        began = time.monotonic()
        assert first.wait(60) != 0
        assert not psutil.wait_procs([second], timeout=60)[1]
        assert time.monotonic() - began < 30
        # The first one may still say that its companion has gone.
        assert json.loads((tmp_path / "status.json").read_text())["state"] in ("running", "failed")
        for number, path in list_checkpoints(tmp_path / "checkpoints"):
            assert same(read_sharded(path), state_of(straight / "fsdp", number))
    half = tmp_path / "checkpoints" / f".step_{STEPS:09d}.shards.part"  # as if it had been killed while it saved
    half.mkdir()
    (half / "__1_0.distcp").write_bytes(b"half")
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path) == metrics(straight / "fsdp")
    assert same(state_of(tmp_path), state_of(straight / "fsdp"))
    assert json.loads((tmp_path / "status.json").read_text())["attempt"] == 3
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        f"step_{number:09d}.shards" for number in range(EVERY, STEPS + 1, EVERY)
    }


@pytest.mark.parametrize("lost", ["__1_0.distcp", "a half of __1_0.distcp", ".metadata", "rest.pt"])
def test_shards_of_which_a_part_is_lost_are_passed_over(straight: Path, tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(straight / "fsdp" / "checkpoints", folder)
    _, path = list_checkpoints(folder)[-1]
    part = path / lost.removeprefix("a half of ")
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2]) if "half" in lost else part.unlink()
    newest = newest_checkpoint(folder)
    assert newest is not None
    assert newest[0] == STEPS - EVERY
    assert same(newest[1], state_of(straight / "fsdp", STEPS - EVERY))
    assert path.with_name(f"{path.name}.damaged").is_dir()
    path.mkdir()  # saved anew, and damaged again
    again = newest_checkpoint(folder)
    assert again is not None
    assert again[0] == STEPS - EVERY


def test_load_reads_a_run_in_shards(straight: Path) -> None:
    model = hybrid_patch.load(straight / "fsdp", device="cpu")
    assert isinstance(model.network, HybridModel)
    assert model.step == STEPS
    weights = state_of(straight / "fsdp")["model"]
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, weights[name])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


class AttributeOfAllowed:
    """`getattr`, by which some versions of Python pickle members of enums, of a class that is none."""

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, (Path, "home")


def test_no_code_of_a_checkpoint_is_run(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoints" / "step_000000004.shards"
    shutil.copytree(straight / "fsdp" / "checkpoints" / path.name, path)
    for evil in (Evil(), AttributeOfAllowed()):
        whole = shutil.copytree(path, tmp_path / type(evil).__name__ / "checkpoints" / path.name)
        (whole / ".metadata").write_bytes(pickle.dumps(evil))
        with pytest.raises(InputError, match="no checkpoint there can be read"):
            newest_checkpoint(whole.parent)
    assert not Path("ran").exists()
