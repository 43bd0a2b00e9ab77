"""The slots of this machine in which members run: its GPUs, or shares of its cores. All sweeps of a user share them."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from launch.config import Local

THREADS = 2
"""CPU threads of a slot by default."""


@dataclass(frozen=True)
class Slot:
    """Room for one process.

    Attributes:
        name: of the file that is locked while the slot is in use.
        gpu: CUDA's number; None: a share of the cores.
        threads: CPU threads for the process.
    """

    name: str
    gpu: str | None
    threads: int


def slots_of(cluster: Local) -> list[Slot]:
    """The slots that a queue may use here."""
    gpus, cores = visible_gpus(), len(os.sched_getaffinity(0))
    threads = cluster.threads or (max(cores // cluster.slots, 1) if cluster.slots else min(THREADS, cores))
    if gpus:
        count = min(cluster.slots or len(gpus), len(gpus))
        return [Slot(f"gpu{gpu}", gpu, cluster.threads or max(cores // count, 1)) for gpu in gpus[:count]]
    count = cluster.slots or max(cores // threads, 1)
    return [Slot(f"cpu{i}", None, threads) for i in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in takewhile(lambda gpu: gpu.strip() != "-1", visible.split(",")) if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listing.splitlines()))]


class HeldSlots:
    """Slots in use by a member. Its process inherits their locks, so they are free when it ends, however it ends."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.files: list[int] = []

    def release(self) -> None:
        """Close the locks here; a process that inherited them holds them until it ends."""
        for file in self.files:
            os.close(file)


def acquire_slots(slots: list[Slot], count: int) -> HeldSlots | None:
    """Hold `count` of the slots; None if fewer are free."""
    folder = Path(tempfile.gettempdir()) / f"hybrid_patch-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    held = HeldSlots()
    for slot in slots:
        file = os.open(folder / slot.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        held.slots.append(slot)
        held.files.append(file)
        if len(held.slots) == count:
            return held
    held.release()
    return None
