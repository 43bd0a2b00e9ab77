"""What this machine has."""

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def machine_memory() -> int:
    """Bytes of memory and swap that a process may use here: by the machine, and by its control groups (a SLURM job)."""
    limits = [psutil.virtual_memory().total + psutil.swap_memory().total]
    group = Path("/proc/self/cgroup")
    for line in group.read_text().splitlines() if group.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root, name = CGROUPS / controllers, "memory.limit_in_bytes" if controllers else "memory.max"
            folder = root / path.lstrip("/")
            files = [each / name for each in (folder, *folder.parents) if each.is_relative_to(root)]
            texts = [file.read_text().strip() for file in files if file.is_file()]
            limits += [int(text) for text in texts if text.isdigit()]  # or "max"
    return min(limits)
