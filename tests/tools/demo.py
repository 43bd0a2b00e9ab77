"""`make demo`: hybrid 8→1, pure ps=8 and a short pure ps=1 on synthetic scenes, compared in a table and a report.

The variants are members of a sweep, side by side on this machine's cores; delete runs/demo to train them again.
"""

import shlex
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hybrid_patch.config.compose import compose, frozen_config
from hybrid_patch.config.recipe import run_directory, run_id
from hybrid_patch.runs.directory import RunDirectory

SWEEP = "demo"
SENTINEL2 = ("~data.modalities.sentinel1", "~data.modalities.srtm")
THREADS = ("cluster.threads=1",)  # a member for every core
BEFORE = (
    "Trains three small models on synthetic scenes, two at a time: hybrid 8→1 and pure ps=8 for 1,200 steps each,\n"
    "pure ps=1 for 80. Each is evaluated, and a page compares them. About 6 minutes on two cores."
)
BASELINES = {
    "surroundings": "bands; means, deviations nearby",
    "random256": "256 random features of the bands",
    "random64": "64 random features of the bands",
    "raw": "raw bands",
}


class Variant(NamedTuple):
    """A run of the demo, by its file in conf/experiment."""

    experiment: str
    title: str

    def run(self) -> RunDirectory:
        config = compose([f"experiment={self.experiment}", *SENTINEL2, f"sweep_name={SWEEP}"])
        return RunDirectory(run_directory(config, run_id(config)))


HYBRID = Variant("demo", "hybrid 8→1")
PS8 = Variant("demo_ps8", "pure ps=8")
PS1 = Variant("demo_ps1", "pure ps=1")
VARIANTS = (HYBRID, PS1, PS8)


class Result(NamedTuple):
    """What a row of the table says of a run."""

    steps: int
    seconds: float  # of training
    pixels_per_second: float
    scores: dict[str, float]


def main() -> int:
    """Train the variants side by side, print the table and write the report. Returns the first exit code not 0."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    began = time.monotonic()
    console.print(BEFORE, highlight=False)
    experiments = f"experiment={','.join(variant.experiment for variant in VARIANTS)}"
    sweep = ["run", experiments, *SENTINEL2, f"sweep_name={SWEEP}", *THREADS]
    for words in (sweep, ["report", SWEEP, "pictures=1"]):
        console.print(f"\n[bold]{escape(shlex.join(['hybrid-patch', 'launch', *words]))}[/bold]", highlight=False)
        code = subprocess.run([sys.executable, "-m", "launch", *words]).returncode
        if code:
            return code
    console.print(f"All in {time.monotonic() - began:.0f} s. Pictures (image, labels, embedding):", highlight=False)
    runs = {variant: variant.run() for variant in VARIANTS}
    for run in runs.values():
        for path in sorted((run.path / "pictures").glob("*.png")):
            console.print(f"  {path}", highlight=False)
    console.print()
    console.print(comparison({variant: result(run) for variant, run in runs.items()}))
    return 0


def result(run: RunDirectory) -> Result:
    """From a run's metrics and config."""
    rows, config = run.metrics(), frozen_config(run.path)
    step = statistics.median(row["step_seconds"] for row in rows)
    steps = int(rows[-1]["step"])
    return Result(steps, steps * step, config.trainer.batch_size * config.data.tile**2 / step, dict(rows[-1]))


def comparison(results: dict[Variant, Result]) -> Table:
    """The answer as the title, and one row per run and baseline."""
    table = Table(title=answer(results), title_justify="left", title_style="bold")
    for column in ("variant", "steps", "training, s", "pixels/s", "linear mIoU", "kNN mIoU"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant, (steps, seconds, speed, scores) in results.items():
        quality = (f"{scores[name]:.3f}" for name in ("probe_miou", "knn_miou"))
        style = "bold" if variant == HYBRID else ""
        table.add_row(variant.title, str(steps), f"{seconds:.0f}", f"{speed:,.0f}", *quality, style=style)
    scores = results[HYBRID].scores
    for name, title in BASELINES.items():
        table.add_row(title, "", "", "", *(f"{scores[f'{name}{end}_miou']:.3f}" for end in ("", "_knn")), style="dim")
    table.caption = (
        "Synthetic scenes, nano, one Sentinel-2 image of any season, one seed. mIoU of every validation\n"
        "pixel's land cover, told from frozen features by a linear classifier and by the 20 nearest\n"
        "neighbours; pixels/s: how fast training is."
    )
    table.caption_justify = "left"
    return table


def answer(results: dict[Variant, Result]) -> str:
    """What the hybrid is worth: differences of linear and kNN mIoU, and how much faster than pure ps=1 it trains."""
    hybrid = results[HYBRID]

    def above(scores: dict[str, float], linear: str, knn: str) -> str:
        return f"{hybrid.scores['probe_miou'] - scores[linear]:+.2f} and {hybrid.scores['knn_miou'] - scores[knn]:+.2f}"

    ps8, ps1 = (above(results[variant].scores, "probe_miou", "knn_miou") for variant in (PS8, PS1))
    faster = hybrid.pixels_per_second / results[PS1].pixels_per_second
    raw = above(hybrid.scores, "raw_miou", "raw_knn_miou")
    return (
        f"Hybrid 8→1 against raw bands: {raw} mIoU (linear and kNN);\n"
        f"against pure ps=8: {ps8}; against pure ps=1: {ps1},\n"
        f"and it trains on {faster:.0f} times as many pixels in a second."
    )


if __name__ == "__main__":
    sys.exit(main())
