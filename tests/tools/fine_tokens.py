"""Measure what patch size 1 costs above patch size 8: the table of docs/performance.md.

Nano, tile 64, batch 4, one modality of 12 bands in one band set, half hidden; the decoded term alone in one view, and
the default loss in two. Steps take turns (`cost/timing.py`), and so does the log-sum-exp alone, on the same shapes.
"""

if __name__ == "__main__":
    from hybrid_patch.config.before_torch import before_torch

    before_torch()

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.table import Table

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.field_types import Count
from hybrid_patch.config.options import Option, OutputFile, Positional
from hybrid_patch.cost.formatting import log
from hybrid_patch.cost.isolated_memory import memory_alone
from hybrid_patch.cost.step import Step
from hybrid_patch.cost.timing import Interval, interleave, interval, ratio, totals_of
from hybrid_patch.loss.logsumexp import Backend, log_sum_exp
from hybrid_patch.runs.atomic_files import write_json
from hybrid_patch.runs.provenance import provenance

COMMON = (
    "logger=none", "evaluation=none", "model=nano", "data=synthetic", "~data.modalities.sentinel1",
    "~data.modalities.srtm", "data.tile=64", "trainer.batch_size=4",
)  # fmt: skip
DECODED_ALONE = ("loss.visible.weight=0", "loss.instance.weight=0", "masking.views=1")
ALL, FEW = "loss.max_queries=null", "loss.max_queries=1024"
VARIANTS = {
    "ps8": ("patch=ps8",),
    "hybrid": ("patch=hybrid", ALL),
    "hybrid, 1024 queries": ("patch=hybrid", FEW),
    "subpixel, 1024 queries": ("patch=hybrid", FEW, "upsampler=subpixel"),
    "learned, 1024 queries": ("patch=hybrid", FEW, "upsampler=learned"),
}
SAMPLES, CHANNELS = 4, 13
CHUNKS = (2**17, 2**18, 2**19, 2**20, 2**22, 2**24)


@dataclass(frozen=True, kw_only=True)
class FineTokensOptions:
    """What the command line asks for."""

    rounds: Annotated[Count, Option("N", "how often each step is timed")] = 15
    output: Annotated[OutputFile | None, Positional("FILE.json", "write the table")] = None


def main() -> None:
    """The command."""
    run_command("python -m tests.tools.fine_tokens", __doc__, FineTokensOptions, fine_tokens)


def fine_tokens(options: FineTokensOptions) -> None:
    """Measure, print the table, write it."""
    rounds = options.rounds
    rows: dict[str, Any] = {}
    for title, timesteps, loss in (
        ("decoded term, one view, T=2", 2, DECODED_ALONE),
        ("decoded term, one view, T=12", 12, DECODED_ALONE),
        ("default loss, two views, T=2", 2, ()),
    ):
        rows |= steps_rows(title, timesteps, loss, rounds)
    rows |= ps1_rows(max(rounds // 5, 1)) | kernel_rows(rounds) | memory_rows()
    table = Table("figure", "median", "interval", title="What patch size 1 costs above patch size 8")
    for name, row in rows.items():
        table.add_row(name, f"{row[0]:.3g}", "" if len(row) == 1 else f"{row[1]:.3g}–{row[2]:.3g}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if options.output is not None:
        write_json(options.output, {"machine": provenance(), "rounds": rounds, "rows": rows})


def steps_rows(title: str, timesteps: int, loss: tuple[str, ...], rounds: int) -> dict[str, Interval]:
    """Step times of the variants, as ratios to pure ps=8, and what all queries add, in units of their log-sum-exp."""
    log(title)
    steps = {
        name: Step(compose([*COMMON, f"data.timesteps={timesteps}", *loss, *variant]))
        for name, variant in VARIANTS.items()
        if name != "hybrid" or timesteps == 2  # 2.4 G pairs a step at T=12
    }
    runs = {name: step.run for name, step in steps.items()}
    alone = loss == DECODED_ALONE and "hybrid" in steps
    if alone:
        hidden = 64**2 * timesteps // 2
        runs["log-sum-exp"] = logsumexp_run(SAMPLES, hidden, hidden, "auto", None)
    seconds = totals_of(interleave(runs, rounds, 3, log))
    rows = {f"{title}: ps8, ms": interval([1e3 * x for x in seconds["ps8"]])}
    for name in steps:
        if name != "ps8":
            rows[f"{title}: {name} / ps8"] = ratio(seconds[name], seconds["ps8"])
    if alone:
        added = [h - p for h, p in zip(seconds["hybrid"], seconds["ps8"], strict=True)]
        rows[f"{title}: (hybrid − ps8) / log-sum-exp alone"] = ratio(added, seconds["log-sum-exp"])
    return rows


def ps1_rows(rounds: int) -> dict[str, Interval]:
    """Pure ps=1, with the same fast loss, against hybrid with all queries."""
    title = "decoded term, one view, T=2: ps1 / hybrid"
    log(title)
    common = [*COMMON, "data.timesteps=2", *DECODED_ALONE, ALL]
    steps = {name: Step(compose([*common, f"patch={name}"])) for name in ("hybrid", "ps1")}
    seconds = totals_of(interleave({name: step.run for name, step in steps.items()}, rounds, 1, log))
    return {title: ratio(seconds["ps1"], seconds["hybrid"])}


def kernel_rows(rounds: int) -> dict[str, Interval]:
    """Pairs per second of the log-sum-exp with its gradient, N=4096, against plain torch at its best chunk."""
    log("log-sum-exp")
    pairs = SAMPLES * 4096**2
    runs = {"kernel": logsumexp_run(SAMPLES, 4096, 4096, "auto", None)}
    runs |= {str(chunk): logsumexp_run(SAMPLES, 4096, 4096, "chunked", chunk) for chunk in CHUNKS}
    seconds = totals_of(interleave(runs, rounds, 1, log))
    best = min((str(chunk) for chunk in CHUNKS), key=lambda chunk: interval(seconds[chunk]).median)
    return {
        "log-sum-exp, N=4096: G pairs/s": interval([pairs / x / 1e9 for x in seconds["kernel"]]),
        f"log-sum-exp, N=4096: chunked (best: {best} numbers) / kernel": ratio(seconds[best], seconds["kernel"]),
    }


def memory_rows() -> dict[str, tuple[float, ...]]:
    """Peak memory of steps above the process's start, and of the loss alone at N=65,536."""
    rows: dict[str, tuple[float, ...]] = {}
    for timesteps in (2, 12):
        peaks = {}
        for name, variant in VARIANTS.items():
            log(f"memory, T={timesteps}: {name}")
            peaks[name] = memory_alone(
                compose([*COMMON, f"data.timesteps={timesteps}", *DECODED_ALONE, *variant]), 600
            ).peak
        rows[f"memory, T={timesteps}: ps8, MiB"] = (peaks["ps8"] / 2**20,)
        for name in [name for name in peaks if name != "ps8"]:
            rows[f"memory, T={timesteps}: {name} / ps8"] = (peaks[name] / peaks["ps8"],)
    for n in (16384, 65536):
        rows[f"memory of the loss at N={n}, MiB"] = (loss_memory(n) / 2**20,)
    return rows


def loss_memory(n: int) -> int:
    """Bytes at the peak of the log-sum-exp and its gradient over n queries and n keys of one sample, in a process."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_loss_alone, (n,))


def _loss_alone(n: int) -> int:
    from hybrid_patch.train.peak_memory import PeakMemory

    logsumexp_run(1, 64, 64, "auto", None)()
    memory = PeakMemory(torch.device("cpu"))
    logsumexp_run(1, n, n, "auto", None)()
    return memory.bytes()


def logsumexp_run(
    samples: int, queries: int, keys: int, backend: Backend, chunk: int | None
) -> Callable[[], dict[str, float]]:
    """One log-sum-exp over unit keys with the gradient to its queries, to be timed."""
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(samples, queries, CHANNELS, generator=rng).requires_grad_()
    key = torch.nn.functional.normalize(torch.randn(samples, keys, CHANNELS, generator=rng), dim=-1)
    bias = torch.zeros(samples, keys)

    def run() -> dict[str, float]:
        began = time.perf_counter()
        log_sum_exp(query, key, bias, backend, chunk).sum().backward()
        query.grad = None
        return {"logsumexp": time.perf_counter() - began}

    return run


if __name__ == "__main__":
    main()
