"""How far a map is: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from hybrid_patch.runs.progress import LINE_SECONDS


class Meter:
    """Counts pixels, and says how fast they come and when they will all be there."""

    def __init__(self, total: int, done: int, pixel_km2: float) -> None:
        self.total, self.done, self.pixel_km2 = total, done, pixel_km2
        self.before = done
        self.began = time.monotonic()
        self.said = 0.0

    def line(self) -> str:
        """The line."""
        speed = (self.done - self.before) / max(time.monotonic() - self.began, 1e-9)
        left = (self.total - self.done) / speed if speed else float("inf")
        return (
            f"{self.done / self.total:.0%}  {speed:,.0f} pixels/s  {speed * self.pixel_km2:.3g} km²/s  "
            + (f"{left:.0f} s left" if left < 600 else f"{left / 60:.0f} min left" if left < 1e9 else "")
        ).rstrip()


@contextmanager
def metered(meter: Meter) -> Iterator["Report"]:
    """Show a meter; what is given is called with every number of pixels that have been made."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield Report(meter, None, None)
        return
    with Progress(TextColumn("embedding"), BarColumn(), TextColumn("{task.fields[line]}"), console=console) as bar:
        yield Report(meter, bar, bar.add_task("", total=meter.total, completed=meter.done, line=""))


class Report:
    """See `metered`."""

    def __init__(self, meter: Meter, bar: Progress | None, task: object) -> None:
        self.meter, self.bar, self.task = meter, bar, task

    def __call__(self, pixels: int) -> None:
        self.meter.done += pixels
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=self.meter.done, line=self.meter.line())  # type: ignore[arg-type]
        elif self.meter.done >= self.meter.total or now - self.meter.said >= LINE_SECONDS:
            self.meter.said = now
            print(self.meter.line(), file=sys.stderr, flush=True)
