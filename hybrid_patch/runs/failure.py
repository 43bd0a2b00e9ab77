"""What became of a run that failed, so that failures can be told apart and grouped: a cause, and where."""

import errno
import traceback
from pathlib import Path

from hybrid_patch.errors import InputError

BAD_INPUT, OUT_OF_MEMORY, DISK_FULL, ERROR = "bad input", "out of memory", "disk full", "error"


def cause_of(error: BaseException) -> str:
    """The cause, in a word or three."""
    if isinstance(error, InputError):
        return BAD_INPUT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    if "No space left on device" in str(error):  # a library's own error around the system's
        return DISK_FULL
    # torch's allocators: OutOfMemoryError on a GPU, a RuntimeError on a CPU.
    words = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or any(
        word in words for word in ("outofmemory", "out of memory", "can't allocate memory", "cannot allocate memory")
    ):
        return OUT_OF_MEMORY
    return ERROR


def last_frame(error: BaseException) -> str:
    """The innermost place in this package that an error passed through: `train.py:123 in fit`."""
    package = Path(__file__).parent.parent
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)] or frames
    if not own:
        return ""
    path = Path(own[-1].filename)
    name = path.relative_to(package) if path.is_relative_to(package) else path.name
    return f"{name}:{own[-1].lineno} in {own[-1].name}"
