"""Memory of one variant's steps, in a process of its own; also whether it runs at all."""

import multiprocessing
import signal
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import torch

from hybrid_patch.config.schema import Config
from hybrid_patch.cost.memory_check import check_memory
from hybrid_patch.cost.step import Step
from hybrid_patch.errors import InputError
from hybrid_patch.train.peak_memory import PeakMemory

STEPS = 2
"""Steps until memory has levelled off: the optimizer's moments are allocated in the first."""


class Memory(NamedTuple):
    """Bytes at the peak: allocated (on a CPU, resident above the process's start); on a GPU also reserved by torch."""

    peak: int
    reserved: int | None


class FailedAlone(Exception):
    """A variant cannot run here; the message says why, in a few words."""


def memory_alone(config: Config, limit_s: float) -> Memory:
    """The memory of a few steps. Raises FailedAlone if they need too much, more than `limit_s` seconds, or fail."""
    try:
        check_memory(config)
    except InputError as error:
        raise FailedAlone(str(error)) from error
    began = time.monotonic()
    alarm = (signal.ITIMER_REAL, limit_s)  # kills the process
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), signal.setitimer, alarm) as pool:
        try:
            return pool.submit(_memory, config).result()
        except BrokenProcessPool:
            late = time.monotonic() - began >= limit_s
            reason = f"no {STEPS} steps in limit_s={limit_s:g} seconds" if late else "killed (out of memory?)"
        except InputError as error:
            reason = str(error)
        except (MemoryError, torch.OutOfMemoryError):
            reason = "out of memory"
        except RuntimeError as error:
            if "DefaultCPUAllocator" in str(error):  # torch has no class for a CPU that is out of memory
                reason = "out of memory"
            else:
                traceback.print_exception(error)
                reason = f"failed: {str(error).splitlines()[0]}"
    raise FailedAlone(reason)


def _memory(config: Config) -> Memory:
    step = Step(config)
    memory = PeakMemory(step.device)
    for _ in range(STEPS):
        step.run()
    return Memory(memory.bytes(), torch.cuda.max_memory_reserved(step.device) if step.device.type == "cuda" else None)
