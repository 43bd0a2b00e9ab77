"""Peak memory."""

import resource
from contextlib import suppress
from pathlib import Path

import psutil
import torch

STATUS = Path("/proc/self/status")


class PeakMemory:
    """Peak bytes since creation or reset: allocated by torch on a GPU; on a CPU resident, above those at that time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        self.start = psutil.Process().memory_info().rss
        with suppress(OSError):  # without it, the peak is that of the whole process so far
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak resident size (man 5 proc)

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if STATUS.exists():
            fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
            peak = int(fields["VmHWM"].split()[0]) * 1024
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
        return max(peak - self.start, 0)
