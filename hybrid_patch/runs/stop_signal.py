"""Signals that ask a run to stop at the next step boundary, and long work at its next check."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

Check = Callable[[], None]
"""What long work calls often. It may raise what ends the work: `Stopped`."""


class Stopped(Exception):
    """The user asked to stop."""


def proceed() -> None:
    """A `Check` that ends nothing."""


class SharedCheck:
    """A `Check` for several threads: one calls it at a time, and what it has raised in one it raises in all."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self._lock = threading.Lock()
        self._raised: BaseException | None = None

    def __call__(self) -> None:
        with self._lock:
            if self._raised is not None:
                raise self._raised
            try:
                self.check()
            except BaseException as error:
                self._raised = error
                raise


class StopRequest:
    """The signal that asked a run to stop; false while there was none."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second Ctrl-C does not wait for the step boundary."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def __bool__(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raises Stopped once there has been a signal."""
        if self:
            raise Stopped


@contextmanager
def stop_requests(signals: Sequence[signal.Signals] = STOPPING) -> Iterator[StopRequest]:
    """Note signals inside the block, and restore the former handlers after it."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in signals}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
