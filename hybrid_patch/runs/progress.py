"""Progress of a training and of a map: a live bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Between plain lines."""

log = logging.getLogger(__name__)


def start_logging(path: Path | None, quiet: bool) -> None:
    """Send messages to the terminal as plain lines (`quiet`: warnings only), and to a run's log file with the time."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # the reader of a file reports what is wrong with it
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    root.handlers = [terminal]
    if path is not None:
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)


@contextmanager
def progress(name: str, start: int, steps: int, quiet: bool) -> Iterator[Callable[[int, float], None]]:
    """Show the steps of a run from `start` to `steps`, or nothing if `quiet`.

    Yields a function to call after every step with its number and its loss.
    """
    console = Console(file=sys.stderr)
    if quiet:
        yield lambda step, loss: None
    elif not console.is_terminal:
        yield _plain_lines(start, steps)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar, _messages_above(console):
            task = bar.add_task(name, completed=start, total=steps, loss=float("nan"))
            yield lambda step, loss: bar.update(task, completed=step, loss=loss)


@contextmanager
def _messages_above(console: Console) -> Iterator[None]:
    """Print log messages above a console's live bar instead of through it."""
    root = logging.getLogger()
    plain = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    above = RichHandler(console=console, show_path=False, show_time=False, show_level=False, markup=False)
    root.addHandler(above)
    for handler in plain:
        root.removeHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(above)
        for handler in plain:
            root.addHandler(handler)


def _plain_lines(start: int, steps: int) -> Callable[[int, float], None]:
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


@contextmanager
def pixel_progress(total: int, done: int, pixel_km2: float) -> Iterator[Callable[[int], None]]:
    """Show the pixels of a map, `done` of them from an earlier start, with their speed and the time left.

    Yields a function to call with every number of pixels that were embedded.
    """
    console = Console(file=sys.stderr)
    began, last, pixels_done = time.monotonic(), 0.0, done

    def line() -> str:
        speed = (pixels_done - done) / max(time.monotonic() - began, 1e-9)
        left = (total - pixels_done) / speed if speed else float("inf")
        return (
            f"{pixels_done / total:.0%}  {speed:,.0f} pixels/s  {speed * pixel_km2:.3g} km²/s  "
            + (f"{left:.0f} s left" if left < 600 else f"{left / 60:.0f} min left" if left < 1e9 else "")
        ).rstrip()

    def plain(pixels: int) -> None:
        nonlocal last, pixels_done
        pixels_done += pixels
        now = time.monotonic()
        if pixels_done >= total or now - last >= LINE_SECONDS:
            last = now
            print(line(), file=sys.stderr, flush=True)

    if not console.is_terminal:
        yield plain
        return
    with Progress(TextColumn("embedding"), BarColumn(), TextColumn("{task.fields[line]}"), console=console) as bar:
        task = bar.add_task("", total=total, completed=done, line="")

        def live(pixels: int) -> None:
            nonlocal pixels_done
            pixels_done += pixels
            bar.update(task, completed=pixels_done, line=line())

        yield live
