"""Threads that embed and compute side by side, each with single-threaded operations of torch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

import torch

A = TypeVar("A")
B = TypeVar("B")


@runtime_checkable
class Mapped(Protocol):
    """The results of a function, in the order of its items."""

    def __call__(self, function: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]: ...


def in_turn(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """In the calling thread, one after the other."""
    return map(function, items)


def ahead(pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A], count: int) -> Iterator[B]:
    """Yield the results of a function, in order, while `count` more calls are under way or waiting in a pool."""
    futures: deque[Future[B]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > count:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def thread_count(device: torch.device) -> int:
    """On a CPU as many threads as torch would use, on a GPU one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def embedding_threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """`thread_count` threads to embed batches of windows in.

    Meanwhile each operation of torch runs in one thread, because those on a few windows are too short to be shared.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(thread_count(device), "embed", initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


@contextmanager
def mapped_in_threads(device: torch.device) -> Iterator[Mapped]:
    """Call a function in `embedding_threads`. Items are asked for in the calling thread, a few ahead."""
    count = thread_count(device)
    with embedding_threads(device) as pool:
        yield lambda function, items: ahead(pool, function, items, count)
