"""Compare the predicted memory of a step with what torch really allocates on this CPU.

For every member of a sweep (nano and tiny at ps=8, hybrid and ps=1, unless another is given): the predicted peak, the
measured one, and their ratio. Measured: the most that torch's allocator had given out during two real steps, by its
profiler, and the batch's arrays, which are numpy's. Kernels' own buffers that pass torch's allocator by are not in it.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.options import Overrides
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources
from hybrid_patch.config.sweep import sweep_members

COMMON = ("logger=none", "evaluation=none", "runtime.device=cpu", "data.tile=32", "data.timesteps=1")
SWEEP = ("model=nano,tiny", "patch=ps8,hybrid,ps1", "trainer.batch_size=4")


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What the command line asks for."""

    overrides: Annotated[
        tuple[str, ...],
        Overrides({"key=value": "overrides as in hybrid-patch train", "key=a,b": "a sweep, as with train -m"}),
    ] = SWEEP


def main() -> None:
    """The command."""
    run_command("python -m tests.tools.check_memory", __doc__, CheckOptions, check_memory)


def check_memory(options: CheckOptions) -> None:
    """Print the table. Raises InputError."""
    lines = sweep_members([*COMMON, *options.overrides], Sources())
    configs = {" ".join(line[len(COMMON) :]): compose(line) for line in lines}
    from hybrid_patch.cost.predict import predict

    table = Table("member", "predicted, MiB", "measured, MiB", "predicted / measured", title="Peak memory of a step")
    for name, config in configs.items():
        print(name, file=sys.stderr, flush=True)
        predicted, allocated = predict(config).peak(), measured_peak(config)
        table.add_row(name, f"{predicted / 2**20:.1f}", f"{allocated / 2**20:.1f}", f"{predicted / allocated:.3f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def measured_peak(config: Config) -> int:
    """Bytes that are allocated at the peak of a real step on the CPU, after one that made the optimizer's state."""
    from torch.profiler import ProfilerActivity, profile

    from hybrid_patch.cost.step import Step

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = Step(config)  # all that stays is allocated here, under the profiler's eyes
        for _ in range(2):
            step.run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((e for e in events if e["name"] == "[memory]"), key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in memory]
    before = totals[0] - memory[0]["args"]["Bytes"]  # of an earlier profile, whose end the counter did not see
    batch = step.batch
    arrays = [*batch.pixels.values(), *batch.valid.values(), *batch.masks.values(), batch.timestamps]
    return max(totals) - before + sum(x.nbytes for x in arrays)


if __name__ == "__main__":
    main()
