"""The processes of a queue on this machine, as the tests look for them and end them."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil


def pid_of(run: Path) -> int:
    """The process that trains a run."""
    return json.loads((run / "lock.json").read_text())["pid"]


def processes(folder: Path, module: str) -> dict[str, psutil.Process]:
    """The processes of a module at work below a folder, by the names of what they work on."""
    by_name = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if module in words and words[-1].startswith(str(folder)):
                by_name[Path(words[-1]).name] = process
    return by_name


def trainings(folder: Path) -> dict[str, psutil.Process]:
    """The processes that train runs below a folder, by the runs' names; those in their imports among them."""
    return processes(folder, "hybrid_patch.resume")


def fill(disk: Path) -> Path:
    """Leave no room on a disk; the file that takes it."""
    filler = disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4096"], capture_output=True, check=False)
    return filler


def server(folder: Path, number: int = 1) -> int:
    """The process of a submission's queue."""
    return int(
        (folder / "runs" / "mine" / "launch" / "submissions" / f"{number:04d}" / "queue.lock").read_text().split()[0]
    )
