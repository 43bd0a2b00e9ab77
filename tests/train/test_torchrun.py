"""A training whose processes torchrun starts, from a process that has trained before."""

import subprocess
import sys
from pathlib import Path

import pytest
from building import TINY
from launching import variables

from hybrid_patch.config.compose import compose
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.train.attempt import train


@pytest.mark.full
def test_torchrun_starts_the_processes_of_a_training(tmp_path: Path) -> None:
    words = (*TINY, "runtime.device=cpu", "trainer.steps=2")
    assert train(compose((*words, f"run_dir={tmp_path / 'one'}"))) == 0
    line = [f"{Path(sys.executable).parent}/torchrun", "--standalone", "--nproc-per-node=2", "-m", "hybrid_patch.train"]
    line += [*words, "runtime=ddp", f"run_dir={tmp_path / 'two'}"]
    done = subprocess.run(line, env=variables(tmp_path, {}), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    alone, together = ([row["loss"] for row in RunDirectory(tmp_path / name).metrics()] for name in ("one", "two"))
    assert "device: cpu, processes: 2" in (tmp_path / "two" / "log.txt").read_text()
    assert together == pytest.approx(alone, rel=1e-3)
