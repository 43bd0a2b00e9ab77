"""The arrays of a submission: what their jobs request, and the sbatch script of each, written by submitit."""

import math
import shlex
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple, TypeVar

from submitit.slurm.slurm import _make_sbatch_string  # its executors pickle; members are frozen on disk already

from hybrid_patch.cost.devices import RESERVE
from launch.config import Slurm
from launch.queue.interface import ArrayPreview
from launch.queue.node_command import job_python
from launch.sweep import Submission, SweepMember

T = TypeVar("T")
MARGIN = 1.2
"""Memory requested by `cluster.memory=plan`, relative to the plan."""
ASKED = "HYBRID_PATCH_ASKED"
"""The variable that names the signals which came while the shell was setting up."""
NOTED = [f"trap '{ASKED}=\"${{{ASKED}-}} {name}\"' {name}" for name in ("USR2", "TERM")]
"""Lines of shell that record signals: one that ended the shell would end the job for good."""

SUPERVISED = [
    f"export {ASKED}; trap '' USR2 TERM",  # ignored until the job's process listens
    "{command} & process=$!",
    "trap 'kill -USR2 $process' USR2; trap 'kill -TERM $process' TERM",
    "while kill -0 $process 2>/dev/null; do wait $process; done",
    "wait $process; code=$?",
    'if [ $code = 137 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt {retries} ]; then scontrol requeue $SLURM_JOB_ID; fi',
    "{put_back}",
    "exit $code",
]
"""Lines of shell around the job's process: they forward signals, requeue it if killed, and look for lost ones."""


class Resources(NamedTuple):
    """What a job requests: tasks, GPUs and memory of each node, CPUs of a task. Equal requests share an array."""

    nodes: int
    tasks: int
    cpus: int
    gpus: str | None
    memory: str | None


def resources_of(cluster: Slurm, member: SweepMember) -> Resources:
    """What the job of a member and those packed with it requests."""
    tasks = member.processes * cluster.pack
    gpus = cluster.gpus_per_node or (str(tasks) if member.cuda else None)
    memory = cluster.memory
    if memory == "plan":
        assert member.memory is not None
        gibibytes = math.ceil((member.memory + RESERVE) * MARGIN / 2**30)  # whole ones, for fewer distinct arrays
        memory = f"{gibibytes * tasks}G"
    return Resources(member.nodes, tasks, cluster.cpus or member.workers + 1, gpus, memory)


class PlannedArray(NamedTuple):
    """What each job of an array requests, and the ids of its members, by job."""

    need: Resources
    groups: list[list[str]]


def planned_arrays(cluster: Slurm, members: Sequence[SweepMember], limit: int) -> list[PlannedArray]:
    """The arrays of members, of at most `limit` jobs each."""
    by_need: dict[Resources, list[str]] = {}
    for member in members:
        by_need.setdefault(resources_of(cluster, member), []).append(member.id)
    jobs = [(need, chunks(each, cluster.pack)) for need, each in by_need.items()]
    return [PlannedArray(need, groups) for need, of_need in jobs for groups in chunks(of_need, limit)]


def chunks(items: list[T], size: int) -> list[list[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def array_preview(submission: Submission, number: int, name: str, array: PlannedArray) -> ArrayPreview:
    """What a person sees of an array before it is submitted; `-`: nothing is requested, the site's default counts."""
    cluster, (need, groups) = submission.cluster, array
    assert isinstance(cluster, Slurm)
    resources = {
        "members": sum(map(len, groups)),
        "jobs": len(groups),
        "parallel": min(cluster.parallel or len(groups), len(groups)),
        "nodes": need.nodes,
        "tasks": need.tasks,
        "cpus": need.cpus,
        "gpus": need.gpus,
        "memory": need.memory,
        "time": cluster.time,
    }
    text = script(submission, number, name, len(groups), need)
    return ArrayPreview({key: "-" if value is None else str(value) for key, value in resources.items()}, text)


def script(submission: Submission, array: int, name: str, jobs: int, need: Resources) -> str:
    """The script of an array of `jobs` jobs."""
    cluster, folder = submission.cluster, submission.folder
    assert isinstance(cluster, Slurm)
    setup = [
        *NOTED,
        *cluster.setup,
        f"export PYTHONPATH={shlex.quote(submission.code)}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"cd {shlex.quote(submission.cwd)}",
    ]
    python = job_python(cluster)
    command = shlex.join([python, "-u", "-m", "launch.queue.slurm_job", str(folder), str(array)])
    retries = str(cluster.retries.preempted + cluster.retries.lost)
    put_back = shlex.join([python, "-m", "launch.watched", str(submission.sweep.folder)])
    values = {"{command}": command, "{retries}": retries, "{put_back}": put_back}
    lines = [reduce(lambda text, key: text.replace(key, values[key]), values, line) for line in SUPERVISED]
    return _make_sbatch_string(
        command="\n".join(lines),
        folder=folder,
        job_name=name,
        **{key: getattr(cluster, key) for key in ("partition", "account", "qos", "time", "constraint")},
        nodes=need.nodes,
        ntasks_per_node=need.tasks,
        cpus_per_task=need.cpus,
        gpus_per_node=need.gpus,  # type: ignore[arg-type]  # with a type, or a number
        mem=need.memory,
        setup=setup,
        array_parallelism=cluster.parallel or jobs,
        map_count=jobs,
        stderr_to_stdout=True,
        wckey=None,  # type: ignore[arg-type]
        use_srun=False,
        additional_parameters={
            "output": str(folder / "job-%A_%a.txt"),
            "requeue": True,  # for a machine that dies; a job that is stopped in time requeues itself
            "signal": f"B:USR2@{cluster.signal_seconds}",  # to the job's own process, which forwards it
            **{key: True if value == "true" else value for key, value in cluster.extra.items()},
        },
    )
