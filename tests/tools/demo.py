"""`make demo`: pure ps=8, hybrid 8→1 and a short pure ps=1 on synthetic scenes, compared in a table and a report.

Each variant is a run like any other, made by `hybrid_patch.train`; delete runs/demo to train them again.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from hybrid_patch.runs.directory import RunDirectory

FOLDER = Path("runs") / "demo"
COMMON = ("experiment=demo", "~data.modalities.sentinel1", "~data.modalities.srtm")


class Variant(NamedTuple):
    """A run of the demo."""

    name: str
    title: str
    overrides: tuple[str, ...]


VARIANTS = (
    Variant("ps8", "pure ps=8", ("patch=ps8",)),
    Variant("hybrid", "hybrid 8→1", ("patch=hybrid", "upsampler=learned")),
    Variant("ps1", "pure ps=1, short", ("patch=ps1", "trainer.steps=8")),
)


def main() -> int:
    """Train the variants, print the table and write the report. Returns the first exit code that is not 0."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    began = time.monotonic()
    for variant in VARIANTS:
        overrides = [*COMMON, *variant.overrides]
        console.print(f"\n[bold]{variant.title}[/bold]: hybrid-patch train {' '.join(overrides)}", highlight=False)
        command = [sys.executable, "-m", "hybrid_patch.train", *overrides, f"run_dir={FOLDER / variant.name}"]
        code = subprocess.run(command).returncode
        if code:
            return code
    console.print(f"\nAll three in {time.monotonic() - began:.0f} s.\n", highlight=False)
    console.print(comparison([(variant, RunDirectory(FOLDER / variant.name)) for variant in VARIANTS]))
    console.print("Pictures (image, labels, the embedding's principal components):")
    for variant in VARIANTS:
        for path in sorted((FOLDER / variant.name / "pictures").glob("*.png")):
            console.print(f"  {path}", highlight=False)
    folders = [str(FOLDER / variant.name) for variant in VARIANTS]
    command = [sys.executable, "-m", "hybrid_patch.report", *folders, f"output={FOLDER / 'report.html'}", "pictures=1"]
    console.print(f"\n[bold]the report[/bold]: python {' '.join(command[1:])}", highlight=False)
    return subprocess.run(command).returncode


def comparison(runs: list[tuple[Variant, RunDirectory]]) -> Table:
    """One row per run, from its metrics."""
    table = Table(title="Synthetic scenes, nano, tile 32, 2 dates, batch 4, one seed")
    for column in ("variant", "steps", "s/step", "peak MiB", "loss", "probe mIoU", "accuracy"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant, run in runs:
        rows = run.metrics()
        last = rows[-1]
        table.add_row(
            variant.title,
            str(last["step"]),
            f"{statistics.median(row['step_seconds'] for row in rows):.3f}",
            f"{max(row['peak_memory_bytes'] for row in rows) / 2**20:.0f}",
            f"{statistics.fmean(row['loss'] for row in rows[-10:]):.3f}",
            f"{last['probe_miou']:.3f}",
            f"{last['probe_accuracy']:.3f}",
        )
    table.add_row("raw bands", "", "", "", "", f"{last['raw_miou']:.3f}", f"{last['raw_accuracy']:.3f}", style="dim")
    table.caption = (
        "Step time: the median; memory: above the start of training; loss: mean of the last 10 steps, not comparable\n"
        "between output patch sizes; probe: a linear classifier of every validation pixel's land cover."
    )
    return table


if __name__ == "__main__":
    sys.exit(main())
