"""The sbatch script of an array, written by submitit."""

import math
import shlex
import sys
from typing import Any, NamedTuple

from submitit.slurm.slurm import _make_sbatch_string  # its executors pickle; members are frozen on disk already

from hybrid_patch.cost.devices import RESERVE
from launch.config import Slurm
from launch.sweep import Submission, SweepMember

MARGIN = 1.2
"""Memory requested by `cluster.memory=plan`, relative to the plan."""
ASKED = "HYBRID_PATCH_ASKED"
"""The variable that names the signals which came while the shell was setting up."""
NOTED = [f"trap '{ASKED}=\"${{{ASKED}-}} {name}\"' {name}" for name in ("USR2", "TERM")]
"""Lines of shell that record signals: otherwise one would end the shell, and SLURM would not start the job again."""


class Resources(NamedTuple):
    """What a job requests; members with equal requests share an array.

    Attributes:
        nodes: machines.
        tasks: processes on each.
        cpus: of a process.
        gpus: on each machine, as sbatch takes it.
        memory: of each machine, as sbatch takes it.
    """

    nodes: int
    tasks: int
    cpus: int
    gpus: str | None
    memory: str | None


def resources_of(cluster: Slurm, member: SweepMember) -> Resources:
    """What the job of a member requests, together with the members packed with it."""
    tasks = member.processes * cluster.pack
    gpus = cluster.gpus_per_node or (str(tasks) if member.cuda else None)
    memory = cluster.memory
    if memory == "plan":
        assert member.memory is not None
        gibibytes = math.ceil((member.memory + RESERVE) * MARGIN / 2**30)  # whole ones, for fewer distinct arrays
        memory = f"{gibibytes * tasks}G"
    return Resources(member.nodes, tasks, cluster.cpus or member.workers + 1, gpus, memory)


def script(submission: Submission, array: int, name: str, jobs: int, need: Resources) -> str:
    """The script of an array of `jobs` jobs.

    A job that is stopped in time requeues itself; `--requeue` is for a machine that dies.
    """
    cluster, folder = submission.cluster, submission.folder
    assert isinstance(cluster, Slurm)
    options: dict[str, Any] = {key: True if value == "true" else value for key, value in cluster.extra.items()}
    setup = [
        *NOTED,
        *cluster.setup,
        f"export PYTHONPATH={shlex.quote(submission.code)}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"cd {shlex.quote(submission.cwd)}",
        f"export {ASKED}; trap '' USR2 TERM",  # ignored until the job's process listens
    ]
    return _make_sbatch_string(
        command="exec " + shlex.join([sys.executable, "-u", "-m", "launch.queue.slurm_job", str(folder), str(array)]),
        folder=folder,
        job_name=name,
        partition=cluster.partition,
        account=cluster.account,
        qos=cluster.qos,
        time=cluster.time,  # type: ignore[arg-type]  # written as it is
        nodes=need.nodes,
        ntasks_per_node=need.tasks,
        cpus_per_task=need.cpus,
        gpus_per_node=need.gpus,  # type: ignore[arg-type]  # with a type, or a number
        mem=need.memory,
        constraint=cluster.constraint,
        setup=setup,
        array_parallelism=cluster.parallel or jobs,
        map_count=jobs,
        stderr_to_stdout=True,
        wckey=None,  # type: ignore[arg-type]
        use_srun=False,
        additional_parameters={
            "output": str(folder / "job-%A_%a.txt"),
            "requeue": True,
            "signal": f"B:USR2@{cluster.signal_seconds}",  # to the job's own process, which forwards it
            **options,
        },
    )
