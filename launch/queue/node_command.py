"""How the processes of a member start on the nodes of a job: by srun or not, in a container or not."""

import os
import sys

from launch.config import Slurm
from launch.sweep import Submission, SweepMember

IN_CONTAINER = "python3"
"""The interpreter of a container, unless `cluster.python` names another."""


def job_python(cluster: Slurm) -> str:
    """The interpreter of the job's process, which talks to SLURM and so runs outside of a container."""
    return sys.executable if in_container(cluster) else cluster.python or sys.executable


def member_python(cluster: Slurm) -> str:
    """The interpreter of the members' trainings."""
    return cluster.python or (IN_CONTAINER if in_container(cluster) else sys.executable)


def in_container(cluster: Slurm) -> bool:
    return cluster.container is not None or cluster.apptainer is not None


def by_srun(cluster: Slurm, member: SweepMember) -> bool:
    """Whether srun starts the member's processes: on several machines, and where pyxis makes the container."""
    return member.nodes > 1 or cluster.container is not None


def command_before(cluster: Slurm, submission: Submission, member: SweepMember) -> list[str]:
    """What is put before the training's command; it then runs once, or by srun once per process."""
    command = []
    if by_srun(cluster, member):
        command = ["srun", f"--nodes={member.nodes}", f"--ntasks-per-node={member.processes}", "--kill-on-bad-exit=1"]
        command += [f"--cpus-per-task={cluster.cpus or member.workers + 1}"]  # from SLURM 22.05 on not sbatch's
        if cluster.container is not None:
            mounts = ",".join(f"{folder}:{folder}" for folder in _mounts(cluster, submission))
            command += [f"--container-image={cluster.container}", f"--container-mounts={mounts}"]
            command += [f"--container-workdir={submission.cwd}"]
    if cluster.apptainer is not None:
        command += ["apptainer", "exec", *(["--nv"] if member.cuda else [])]
        command += [f"--bind={folder}" for folder in _mounts(cluster, submission)]
        command += [f"--pwd={submission.cwd}", cluster.apptainer]
    if by_srun(cluster, member) and member.nodes * member.processes > 1:
        command += [member_python(cluster), "-u", "-m", "launch.queue.slurm_rank"]
    return command


def _mounts(cluster: Slurm, submission: Submission) -> list[str]:
    """Folders that a container has at the same path: where the runs and their code are, and those of the config."""
    return list(dict.fromkeys([submission.cwd, os.path.realpath(submission.sweep.folder), *cluster.mounts]))
