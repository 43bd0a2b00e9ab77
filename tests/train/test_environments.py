"""Who starts a run's processes, whatever variables of a scheduler are around it."""

import subprocess
import sys
from pathlib import Path

import pytest
from building import TINY
from launching import variables
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from hybrid_patch.config.compose import compose
from hybrid_patch.config.schema import Runtime
from hybrid_patch.errors import InputError
from hybrid_patch.train.distributed import cluster_environment

TWO = ("runtime=ddp", "runtime.device=cpu")
TWO_MACHINES = (*TWO, "runtime.nodes=2", "trainer.batch_size=4")
JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "localhost",
    "SLURM_JOB_NAME": "train",
}
"""What is around a command that is started by hand in a job."""
TORCHRUN = {
    "RANK": "0",
    "GROUP_RANK": "0",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "20000",
    "TORCHELASTIC_RUN_ID": "7",
}


def runtime(*overrides: str) -> Runtime:
    return compose(overrides).runtime


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler around the tests."""
    for name in (*JOB, *TORCHRUN, "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def surround(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.sample(2)
@pytest.mark.parametrize("overrides", [(), TWO])
@pytest.mark.parametrize("tasks", ["1", "2", "8"])
def test_a_job_around_it_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tasks: str, overrides: tuple[str, ...]
) -> None:
    surround(monkeypatch, **JOB, SLURM_NTASKS=tasks, SLURM_NTASKS_PER_NODE=tasks)
    assert isinstance(cluster_environment(runtime(*overrides)), LightningEnvironment)


def test_a_step_of_as_many_tasks_is_what_srun_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    surround(monkeypatch, **JOB, SLURM_NTASKS="8", SLURM_STEP_ID="3", SLURM_STEP_NUM_TASKS="2")
    environment = cluster_environment(runtime(*TWO))
    assert isinstance(environment, SLURMEnvironment)
    assert environment.world_size() == 2
    environment.validate_settings(num_devices=2, num_nodes=1)
    assert isinstance(cluster_environment(runtime()), LightningEnvironment)  # in a shell of that step


def test_torchrun_and_the_config_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    surround(monkeypatch, **TORCHRUN, WORLD_SIZE="2")
    assert isinstance(cluster_environment(runtime(*TWO)), TorchElasticEnvironment)
    with pytest.raises(InputError, match="torchrun has started 2 processes, the config says 1"):
        cluster_environment(runtime())


def test_several_machines_by_hand_are_one_line() -> None:
    with pytest.raises(InputError, match=r"runtime\.nodes=2: several machines need hybrid-patch launch"):
        cluster_environment(runtime(*TWO_MACHINES))


@pytest.mark.full
def test_two_processes_in_a_job_of_eight_tasks_train(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_patch", "train", *TINY, *TWO, "trainer.steps=2", "run_dir=run"],
        cwd=tmp_path,
        env=variables(tmp_path, {**JOB, "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "8"}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "device: cpu, processes: 2" in (tmp_path / "run" / "log.txt").read_text()
