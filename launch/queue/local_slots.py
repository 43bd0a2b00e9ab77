"""The places of this machine where members run: its GPUs, or its cores in shares. All sweeps share them."""

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
"""Of a CPU slot, unless it is said."""


@dataclass(frozen=True)
class Slot:
    """A place for a process.

    Attributes:
        name: of the file that is locked while somebody is in it.
        gpu: as CUDA counts; None: a share of the cores.
        threads: for a process in it.
    """

    name: str
    gpu: str | None
    threads: int


def slots_of(cluster: Local) -> list[Slot]:
    """The slots that a queue may use here."""
    gpus, cores = found_gpus(), len(os.sched_getaffinity(0))
    threads = cluster.threads or (max(cores // cluster.slots, 1) if cluster.slots else min(THREADS, cores))
    if gpus:
        count = min(cluster.slots or len(gpus), len(gpus))
        return [Slot(f"gpu{gpu}", gpu, cluster.threads or max(cores // count, 1)) for gpu in gpus[:count]]
    count = cluster.slots or max(cores // threads, 1)
    return [Slot(f"cpu{i}", None, threads) for i in range(count)]


def found_gpus() -> list[str]:
    """The GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in takewhile(lambda gpu: gpu.strip() != "-1", visible.split(",")) if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in said.stdout.splitlines()))]


class TakenSlots:
    """Slots in the hands of a member. Its process inherits them: they are free when it has ended, whatever happens."""

    def __init__(self, slots: list[Slot], files: list[int]) -> None:
        self.slots, self.files = slots, files

    def free(self) -> None:
        """Close them here; a process that inherited them keeps them until it ends."""
        for file in self.files:
            os.close(file)


def take(slots: list[Slot], count: int) -> TakenSlots | None:
    """So many of the slots, all or none (None)."""
    folder = Path(tempfile.gettempdir()) / f"hybrid_patch-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    taken = TakenSlots([], [])
    for slot in slots:
        file = os.open(folder / slot.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        taken.slots.append(slot)
        taken.files.append(file)
        if len(taken.slots) == count:
            return taken
    taken.free()
    return None
