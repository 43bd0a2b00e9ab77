from launch.config import Cluster, Local
from launch.queue.interface import Queue


def queue_of(cluster: Cluster) -> Queue:
    """The queue of a cluster's settings."""
    if isinstance(cluster, Local):
        from launch.queue.local import LocalQueue

        return LocalQueue(cluster)
    from launch.queue.slurm import SlurmQueue

    return SlurmQueue(cluster)
