"""Progress: a live bar on a terminal, plain lines elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn

from hybrid_patch.errors import InputError, printable
from hybrid_patch.runs.lock import LostLockError

LINE_SECONDS = 10.0
"""Between plain lines."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class OneLine(logging.Formatter):
    """Each message on one line, whatever the names of files in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class LogFile(logging.FileHandler):
    """A log file with the time, written within `permit`, which may raise: then a line is left out."""

    def __init__(self, path: Path, permit: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(path)
        self.permit = permit
        self.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))

    def handle(self, record: logging.LogRecord) -> bool:
        """Here rather than in `emit`, which holds the handler's lock: nobody must wait for `permit` with that."""
        with suppress(LostLockError, InputError, OSError), self.permit():
            return super().handle(record)
        return False


def start_logging(file: LogFile | None, quiet: bool) -> None:
    """Send messages to the terminal (`quiet`: warnings only), and to a log file."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # the reader of a file reports what is wrong with it
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(OneLine("%(message)s"))
    root.handlers = [terminal]
    if file is not None:
        root.addHandler(file)


@contextmanager
def progress(name: str, start: int, steps: int, quiet: bool) -> Iterator[Callable[[int, float, str], None]]:
    """Show the steps of a run, unless `quiet`. Yields a function to call with a step's number, loss and throughput."""
    if quiet:
        yield lambda step, loss, throughput: None
        return
    with _shown(name, steps, start, log.info) as show:

        def report(step: int, loss: float, throughput: str) -> None:
            show(step, lambda speed: f"step {step}/{steps}  loss {loss:.4f}  {speed:.2f} steps/s  {throughput}")

        yield report


@contextmanager
def pixel_progress(total: int, done: int, pixel_km2: float) -> Iterator[Callable[[int], None]]:
    """Show the pixels of a map, `done` before. Yields a function to call with each number of pixels embedded."""
    with _shown("embedding", total, done, lambda line: print(line, file=sys.stderr, flush=True)) as show:

        def report(pixels: int) -> None:
            nonlocal done
            done += pixels
            share = done / total
            show(done, lambda speed: f"{share:.0%}  {speed:,.0f} pixels/s  {speed * pixel_km2:.3g} km²/s")

        yield report


Show = Callable[[float | int, float | int, str], None]
"""Of how much of a work is done, all of it, and what was done last."""


def unseen(done: float | int, total: float | int, text: str) -> None:
    """A `Show` that shows nothing."""


@contextmanager
def share_progress(name: str, bar: bool = True) -> Iterator[Show]:
    """Show how much of a work is done; without a `bar`, in plain lines on a terminal too."""
    with _shown(name, 1, 0, log.info, bar) as show:
        lead = "" if bar else f"{name}: "
        yield lambda done, total, text: show(done / total, lambda _: f"{lead}{done / total:.0%}  {text}")


class Work:
    """A work of a total, in any unit, and how much of it is done."""

    def __init__(self, show: Show, total: float | int) -> None:
        self.show, self.total, self.completed = show, total, 0.0

    def done(self, amount: float | int, text: str) -> None:
        self.completed += amount
        self.show(self.completed, self.total, text)

    def on(self, items: Iterable[T], amount: float | int, name: str) -> Iterator[T]:
        """The items; each is done when the next is asked for."""
        for number, item in enumerate(items, 1):
            yield item
            self.done(amount, f"{name} {number}")


@contextmanager
def _shown(
    name: str, total: float | int, start: float | int, print_line: Callable[[str], object], bar: bool = True
) -> Iterator[Callable[[float | int, Callable[[float], str]], None]]:
    """Show how much of a total is completed, `start` before. Yields a function of that, and of a text by the speed."""
    console = Console(file=sys.stderr)
    began, last = time.monotonic(), -math.inf

    def line(completed: float | int, text: Callable[[float], str]) -> str:
        if completed <= start:
            return text(0.0)
        speed = (completed - start) / max(time.monotonic() - began, 1e-9)
        left = (total - completed) / speed
        return f"{text(speed)}  " + (f"{left:.0f} s left" if left < 600 else f"{left / 60:.0f} min left")

    def plain(completed: float | int, text: Callable[[float], str]) -> None:
        nonlocal last
        if completed >= total or time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print_line(line(completed, text))

    if not (bar and console.is_terminal):
        yield plain
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=console) as live, _messages_above(console):
        task = live.add_task(name, total=total, line="")
        live.update(task, completed=start)
        yield lambda completed, text: live.update(task, completed=completed, line=line(completed, text))


@contextmanager
def _messages_above(console: Console) -> Iterator[None]:
    """Print log messages above a console's live bar instead of through it."""
    root = logging.getLogger()
    before = list(root.handlers)
    above = RichHandler(console=console, show_path=False, show_time=False, show_level=False, markup=False)
    root.handlers = [above, *(handler for handler in before if type(handler) is not logging.StreamHandler)]
    try:
        yield
    finally:
        root.handlers = before
