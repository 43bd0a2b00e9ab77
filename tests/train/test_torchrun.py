"""A training whose processes torchrun starts, from a process that has trained before."""

import subprocess
import sys
from pathlib import Path

import pytest
from building import TINY
from launching import variables

from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.train.distributed import FIRST


def test_torchrun_starts_the_processes_of_a_training(tmp_path: Path) -> None:
    starters: dict[str, tuple[list[str], list[str]]] = {
        "one": ([sys.executable], []),
        "two": ([f"{Path(sys.executable).parent}/torchrun", "--standalone", "--nproc-per-node=2"], ["runtime=ddp"]),
    }
    losses = {}
    for name, (starter, words) in starters.items():
        line = [*starter, "-m", "hybrid_patch.train", *TINY, *words, "runtime.device=cpu", "trainer.steps=2"]
        line.append(f"run_dir={tmp_path / name}")
        environment = variables(tmp_path, {FIRST: "1"})
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        losses[name] = [row["loss"] for row in RunDirectory(tmp_path / name).metrics()]
    assert "device: cpu, processes: 2" in (tmp_path / "two" / "log.txt").read_text()
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-3)
