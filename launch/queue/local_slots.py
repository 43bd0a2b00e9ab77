"""The slots of this machine in which members run: its GPUs, or shares of its cores. All sweeps of a user share them."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from launch.config import Local

THREADS = 2
"""CPU threads of a slot by default."""


class Slot(NamedTuple):
    """Room for one process: a GPU by CUDA's number, or a share of the cores. `name` is its lock file's."""

    name: str
    gpu: str | None
    threads: int


def slots_of(cluster: Local) -> list[Slot]:
    gpus, cores = visible_gpus(), len(os.sched_getaffinity(0))
    if gpus:
        count = min(cluster.slots or len(gpus), len(gpus))
        return [Slot(f"gpu{gpu}", gpu, cluster.threads or max(cores // count, 1)) for gpu in gpus[:count]]
    threads = cluster.threads or (max(cores // cluster.slots, 1) if cluster.slots else min(THREADS, cores))
    return [Slot(f"cpu{i}", None, threads) for i in range(cluster.slots or max(cores // threads, 1))]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in takewhile(lambda gpu: gpu.strip() != "-1", visible.split(",")) if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listing.splitlines()))]


def acquire_slots(slots: list[Slot], count: int) -> dict[Slot, int] | None:
    """Lock `count` of the slots; None if fewer are free. Returns the descriptors of their locks, for `release_slots`.

    A process that inherits the descriptors holds the slots until it ends, however it ends.
    """
    folder = Path(tempfile.gettempdir()) / f"hybrid_patch-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    held: dict[Slot, int] = {}
    for slot in slots:
        file = os.open(folder / slot.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        held[slot] = file
        if len(held) == count:
            return held
    release_slots(held)
    return None


def release_slots(held: dict[Slot, int]) -> None:
    for file in held.values():
        os.close(file)
