"""Threads that embed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def workers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads to embed batches of windows in, and while they are there each of torch's operations is in one thread.

    On a CPU as many as torch would use: operations on a few windows are too short for several threads to share one,
    least of all on a machine that has other work too. On a GPU one.
    """
    threads = torch.get_num_threads()
    count = threads if device.type == "cpu" else 1
    pool = ThreadPoolExecutor(count, "embed", initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
