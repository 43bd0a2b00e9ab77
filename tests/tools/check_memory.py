"""Hold the predicted memory of a step to what torch really allocates on this CPU.

    python -m tests.tools.check_memory [overrides and sweeps]

For every member of a sweep (nano and tiny at ps=8, hybrid and ps=1, unless another is given): the predicted peak, the
measured one, and their ratio. Measured: the most that torch's allocator had given out during two real steps, by its
profiler, and the batch's arrays, which are numpy's. Kernels' own buffers that pass torch's allocator by are not in it.
"""

import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hybrid_patch.config.compose import Sources, compose, sweep_members
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import input_errors_end

COMMON = ("logger=none", "evaluation=none", "runtime.device=cpu", "data.tile=32", "data.timesteps=1")
SWEEP = ("model=nano,tiny", "patch=ps8,hybrid,ps1", "trainer.batch_size=4")


def main() -> None:
    """The command."""
    with input_errors_end():
        lines = sweep_members([*COMMON, *(sys.argv[1:] or SWEEP)], Sources())
        configs = {" ".join(line[len(COMMON) :]): compose(line) for line in lines}
    from hybrid_patch.cost.predict import predict

    table = Table("member", "predicted, MiB", "measured, MiB", "predicted / measured", title="Peak memory of a step")
    for name, config in configs.items():
        print(name, file=sys.stderr, flush=True)
        predicted, measured = predict(config).peak(), measured_peak(config)
        table.add_row(name, f"{predicted / 2**20:.1f}", f"{measured / 2**20:.1f}", f"{predicted / measured:.3f}")
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
