from pathlib import Path

from launch.config import Cluster, Local
from launch.queue.interface import Queue


def has_queue(folder: Path) -> bool:
    """Whether a submission in a folder, whose record cannot be read, still has a queue. Raises QueueSilentError."""
    from launch.queue.local import LOCK, is_locked
    from launch.queue.slurm import ARRAYS, has_jobs

    return is_locked(folder / LOCK) or ((folder / ARRAYS).exists() and has_jobs(folder))


def queue_of(cluster: Cluster) -> Queue:
    """The queue of a cluster's settings."""
    if isinstance(cluster, Local):
        from launch.queue.local import LocalQueue

        return LocalQueue(cluster)
    from launch.queue.slurm import SlurmQueue

    return SlurmQueue(cluster)
