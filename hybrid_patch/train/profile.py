"""A trace of some training steps by torch.profiler, to be looked at in Perfetto or Chrome."""

import gzip
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from torch.profiler import profile, record_function, schedule

from hybrid_patch.runs.atomic_files import write_whole
from hybrid_patch.runs.directory import PROFILE, RunDirectory
from hybrid_patch.train.step import TrainingStep

WAIT, WARMUP = 2, 1
"""Steps of a start that are not traced: the first are slow, and so is one in which the profiler starts."""

log = logging.getLogger(__name__)


@contextmanager
def traced(
    steps: int, interrupted: Sequence[bool], training_step: TrainingStep, run: RunDirectory
) -> Iterator[Callable[[], None]]:
    """Trace up to `steps` steps inside the block, with their phases, into the run's PROFILE; 0: none.

    The trace begins and ends so that it has no evaluation and no save in it: `interrupted` says after which steps of
    the block one comes. Yields a function to call after each step. If the block ends early, the trace has fewer steps.
    """
    if not steps:
        yield lambda: None
        return
    last = len(interrupted)
    before = next((n for n in range(WAIT + WARMUP, last) if not interrupted[n - 1]), max(last, WAIT + WARMUP))
    steps = next((n for n in range(1, steps) if before + n <= last and interrupted[before + n - 1]), steps)
    path = run.path / PROFILE
    written = False

    def write(profiler: profile) -> None:
        nonlocal written
        if profiler.step_num <= before:  # it ends as the first step to trace would begin
            return
        with tempfile.TemporaryDirectory() as folder:
            profiler.export_chrome_trace(str(plain := Path(folder) / "trace.json"))
            with plain.open("rb") as trace:
                write_whole(path, lambda file: _compress(trace, file), run.held())
        written = True
        log.info("trace in %s; open it at https://ui.perfetto.dev", path)

    training_step.phase = record_function
    try:
        plan = schedule(wait=before - WARMUP, warmup=WARMUP, active=steps, repeat=1)
        with profile(schedule=plan, on_trace_ready=write) as profiler:
            yield profiler.step
    finally:
        training_step.phase = nullcontext
    if not written:
        log.warning(
            "runtime.profile: no trace; a start makes %d steps before it, and no evaluation or save in it", before
        )


def _compress(trace: BinaryIO, file: BinaryIO) -> None:
    with gzip.GzipFile(fileobj=file, mode="wb") as compressed:
        shutil.copyfileobj(trace, compressed)
