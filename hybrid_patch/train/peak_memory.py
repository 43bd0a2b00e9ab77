"""Peak memory of a run."""

import resource
import sys
from pathlib import Path

import psutil
import torch

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
RESET_PEAK = "5"
"""Written to `clear_refs`, it resets the peak resident size on Linux (man 5 proc)."""


class PeakMemory:
    """Peak bytes since creation: allocated by torch on a GPU; on a CPU resident, above those at creation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        self.start = psutil.Process().memory_info().rss
        try:
            CLEAR_REFS.write_text(RESET_PEAK)
            self.resettable = True
        except OSError:
            self.resettable = False  # then the peak of the whole process, less what is resident now

    def bytes(self) -> int:
        """The peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.resettable:
            fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
            peak = int(fields["VmHWM"].split()[0]) * 1024
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return max(peak - self.start, 0)
