"""SLURM's commands, as one calls them from any shell: also from within another job."""

import os
import subprocess

from launch.queue.interface import QueueSilentError

TIMEOUT = 120
"""Seconds that a SLURM command may take."""
OPTIONS = ("SBATCH_", "SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_")
"""Prefixes of variables that would override a script's options, hide jobs, or carry another job's into a new one."""
SITE = ("SLURM_CONF", "SLURM_JWT")
"""Variables that say where the cluster is, and who asks."""


def output_of(*command: str) -> str:
    """The output of a SLURM command, called without `OPTIONS`. Raises QueueSilentError if it fails."""
    plain = {name: value for name, value in os.environ.items() if name in SITE or not name.startswith(OPTIONS)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=plain, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueSilentError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise QueueSilentError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout
