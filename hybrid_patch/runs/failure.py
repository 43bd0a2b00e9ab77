"""Why a run failed: a cause and a place in the code, by which failures are grouped."""

import errno
import traceback
from pathlib import Path

from hybrid_patch.errors import DISK_ERRORS, InputError

BAD_INPUT, OUT_OF_MEMORY, DISK_FULL, ERROR = "bad input", "out of memory", "disk full", "error"
LOST = "lost"
"""Its machine or its disk is gone, or what had started it: no fault of its own."""


def cause_of(error: BaseException) -> str:
    if isinstance(error, InputError):
        return BAD_INPUT
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in str(error):  # a library's own error around the system's
        return DISK_FULL
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return LOST
    # torch's allocators: OutOfMemoryError on a GPU, a RuntimeError on a CPU.
    text = f"{type(error).__name__} {error}".lower()
    phrases = ("outofmemory", "out of memory", "can't allocate memory", "cannot allocate memory")
    if isinstance(error, MemoryError) or any(phrase in text for phrase in phrases):
        return OUT_OF_MEMORY
    return ERROR


def last_frame(error: BaseException) -> str:
    """The innermost place in this package that an error passed through: `train/trainer.py:123 in fit`."""
    package = Path(__file__).parent.parent
    stack = list(traceback.extract_tb(error.__traceback__))
    frames = [frame for frame in stack if Path(frame.filename).is_relative_to(package)] or stack
    if not frames:
        return ""
    path = Path(frames[-1].filename)
    name = path.relative_to(package) if path.is_relative_to(package) else path.name
    return f"{name}:{frames[-1].lineno} in {frames[-1].name}"
