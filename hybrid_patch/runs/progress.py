"""How a run tells how far it is: a live bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Between plain lines."""

log = logging.getLogger(__name__)


@runtime_checkable
class Report(Protocol):
    """Called after every step with its number and its loss."""

    def __call__(self, step: int, loss: float) -> None: ...


def start_logging(path: Path | None, quiet: bool) -> None:
    """Messages go to the terminal as plain lines (`quiet`: warnings alone), and to a run's log file with their time."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what is wrong with a file is said by its reader
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    root.handlers = [terminal]
    if path is not None:
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)


@contextmanager
def progress(name: str, start: int, steps: int, quiet: bool) -> Iterator[Report]:
    """Report the steps of a run from `start` to `steps`; `quiet`: not at all."""
    if quiet:
        yield lambda step, loss: None
        return
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _plain_lines(start, steps)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    root = logging.getLogger()
    plain = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    with Progress(*columns, console=console) as bar:
        above_the_bar = RichHandler(console=console, show_path=False, show_time=False, show_level=False, markup=False)
        root.addHandler(above_the_bar)
        for handler in plain:
            root.removeHandler(handler)
        task = bar.add_task(name, completed=start, total=steps, loss=float("nan"))
        try:
            yield lambda step, loss: bar.update(task, completed=step, loss=loss)
        finally:
            root.removeHandler(above_the_bar)
            for handler in plain:
                root.addHandler(handler)


def _plain_lines(start: int, steps: int) -> Report:
    began = last = time.monotonic()

    def report(step: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if step == start + 1 or step == steps or now - last >= LINE_SECONDS:
            last = now
            speed = (step - start) / (now - began)
            log.info(
                "step %d/%d  loss %.4f  %.2f steps/s  %.0f s left", step, steps, loss, speed, (steps - step) / speed
            )

    return report
