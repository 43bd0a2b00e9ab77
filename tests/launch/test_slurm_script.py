"""The sbatch script of an array, and the private function of submitit that writes it."""

import inspect
import sys
from pathlib import Path

import pytest
from submitit.slurm import slurm

from launch.config import Slurm, read_cluster
from launch.queue.slurm_command import output_of
from launch.queue.slurm_script import resources_of, script
from launch.sweep import Submission, SweepMember

MEMBER = SweepMember(id="a", arguments=(), nodes=1, processes=2, workers=3, cuda=True, memory=3 * 2**30)
WORDS = (
    *("cluster=slurm", "cluster.partition=gpu", "cluster.time=1-0", "cluster.memory=plan", "cluster.parallel=2"),
    *("cluster.setup=[module load cuda]", "cluster.extra={exclusive: true, reservation: mine}"),
)


def test_the_private_function_of_submitit_takes_what_we_give_it() -> None:
    """pyproject.toml caps submitit below the next minor version; raise the cap when this and the SLURM tests pass."""
    assert set(inspect.signature(slurm._make_sbatch_string).parameters) >= {
        *("command", "folder", "job_name", "partition", "account", "qos", "time", "nodes", "ntasks_per_node"),
        *("cpus_per_task", "gpus_per_node", "mem", "constraint", "setup", "array_parallelism", "map_count"),
        *("stderr_to_stdout", "wckey", "use_srun", "additional_parameters"),
    }


def test_a_script_requests_what_a_member_needs_and_ends_as_our_process() -> None:
    cluster = read_cluster(WORDS)
    assert isinstance(cluster, Slurm)
    need = resources_of(cluster, MEMBER)
    folder = Path("/runs/x/launch/submissions/0001")
    submission = Submission(
        folder=folder, number=1, cluster=cluster, code="/code here", cwd="/work", members=(MEMBER,), name="x"
    )
    lines = script(submission, 0, "x-0", 3, need).splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {
        *("partition=gpu", "time=1-0", "array=0-2%2", "job-name=x-0", "nodes=1", "ntasks-per-node=2"),
        *("cpus-per-task=4", "gpus-per-node=2", f"mem={need.memory}", "exclusive", "reservation=mine", "requeue"),
        *("signal=B:USR2@120", f"output={folder}/job-%A_%a.txt", "open-mode=append"),
    }
    assert not [option for option in options if option.startswith(("account", "qos", "error", "wckey"))]
    order = ("trap", "module load cuda", "export PYTHONPATH='/code here'", "cd /work", sys.executable)
    line_numbers = [next(i for i, line in enumerate(lines) if line.startswith(begin)) for begin in order]
    assert line_numbers == sorted(line_numbers)
    assert [line for line in lines if f"launch.queue.slurm_job {folder} 0 &" in line]
    assert lines[-1] == "exit $code"


def test_slurm_commands_see_no_variables_of_a_job_around(monkeypatch: pytest.MonkeyPatch) -> None:
    site = {"SLURM_CONF", "SLURM_JWT", "SLURMD_NODENAME"}
    for name in ("SBATCH_PARTITION", "SLURM_NTASKS", "SLURM_CONFIG", "SQUEUE_STATES", *site):
        monkeypatch.setenv(name, "x")
    names = {line.partition("=")[0] for line in output_of("env").splitlines()}
    slurm_names = {name for name in names if name.startswith(("SBATCH", "SLURM", "SQUEUE"))}
    assert slurm_names == site
