"""Memory of one variant's steps, in a process of its own; also whether it runs at all."""

import multiprocessing
import os
import signal
import traceback
from multiprocessing.connection import Connection
from typing import NamedTuple

from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError

STEPS = 2
"""Steps until memory has levelled off: the optimizer's moments are allocated in the first."""


class Memory(NamedTuple):
    """Bytes at the peak: allocated (on a CPU, resident above the process's start); on a GPU also reserved by torch."""

    peak: int
    reserved: int | None


class FailedAlone(Exception):
    """A variant cannot run here; the message says why, in a few words."""


def memory_alone(config: Config, limit_s: float) -> Memory:
    """The memory of a few steps, in a process that does nothing else.

    Raises FailedAlone if it runs out of memory, takes longer than `limit_s` seconds, or fails otherwise.
    """
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_steps, args=(config, send), daemon=True)
    process.start()
    send.close()
    try:
        if not receive.poll(limit_s):
            raise FailedAlone(f"no {STEPS} steps in limit_s={limit_s:g} seconds")
        answer = receive.recv()
    except EOFError:
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        raise FailedAlone("killed (out of memory?)" if killed else f"exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receive.close()
    if isinstance(answer, str):
        raise FailedAlone(answer)
    return answer


def _steps(config: Config, send: Connection) -> None:
    import torch

    from hybrid_patch.cost.step import Step
    from hybrid_patch.train.peak_memory import PeakMemory

    try:
        step = Step(config)
        memory = PeakMemory(step.device)
        for _ in range(STEPS):
            step.run()
        reserved = torch.cuda.max_memory_reserved(step.device) if step.device.type == "cuda" else None
        send.send(Memory(memory.bytes(), reserved))
    except (MemoryError, torch.OutOfMemoryError):
        send.send("out of memory")
    except InputError as error:
        send.send(str(error))
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # torch has no class for a CPU that is out of memory
            send.send("out of memory")
        else:
            traceback.print_exc()
            send.send(f"failed: {str(error).splitlines()[0]}")
    finally:
        send.close()
        os._exit(0)
