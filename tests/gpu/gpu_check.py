"""Check that all of it works on this machine's GPU, and measure how fast.

Loss backends against the plain reference, a training step against the CPU's, a resumed run against one that was not, no
wait for the device inside of a step, and training steps side by side: nano, tiny and base at tile 64, two dates and
twelve. Needs a checkout and what it depends on, no files and no network. Without a GPU all but the last two run on the
CPU, and small steps take the place of the large ones. Exit code: 0 all is well · 1 something is not · 2 bad input.
"""

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BeforeValidator
from rich.console import Console
from rich.table import Table

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.field_types import Amount
from hybrid_patch.config.options import Option, OutputFile, Positional
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.benchmark import VARIANTS
from hybrid_patch.errors import DONE, FAILED
from hybrid_patch.runs.atomic_files import write_json

if TYPE_CHECKING:
    import torch

COMMON = ("logger=none", "evaluation=none", "data.scenes=8", "data.scene_size=64")
SMALL = (*COMMON, "model=nano", "data.tile=32", "data.timesteps=2", "trainer.batch_size=4", "upsampler=guided")
CPU_STEP = (*COMMON, "model=nano", "data.tile=16", "data.timesteps=1", "trainer.batch_size=2")
GPU_STEPS = {
    ("base", 12): (*COMMON, "model=base", "data.tile=64", "data.timesteps=12", "trainer.batch_size=16"),
    ("base", 2): (*COMMON, "model=base", "data.tile=64", "data.timesteps=2", "trainer.batch_size=32"),
    ("tiny", 12): (*COMMON, "model=tiny", "data.tile=64", "data.timesteps=12", "trainer.batch_size=32"),
    ("tiny", 2): (*COMMON, "model=tiny", "data.tile=64", "data.timesteps=2", "trainer.batch_size=64"),
    ("nano", 12): (*COMMON, "model=nano", "data.tile=64", "data.timesteps=12", "trainer.batch_size=32"),
    ("nano", 2): (*COMMON, "model=nano", "data.tile=64", "data.timesteps=2", "trainer.batch_size=64"),
}
BENCHMARKED = ("ps8", "hybrid", "guided", "ps1")
TOLERANCE = 1e-4
"""Of float32 results, relative to the largest number."""
ROUNDS, WARM_UP, LIMIT_S = 7, 3, 60
MUST = (("hybrid/ps8 step", 1.15), ("hybrid/ps8 peak memory", 1.15), ("share of peak FLOPs of ps8", 0.40))
"""Of base at twelve dates in bfloat16: at most, at most, at least."""


def _device(text: str) -> str:
    """The device, which must be here."""
    import torch

    if text not in ("cuda", "cpu") or (text == "cuda" and not torch.cuda.is_available()):
        raise ValueError("takes cpu, or cuda where torch finds a GPU")
    return text


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What the command line asks for."""

    output: Annotated[OutputFile, Positional("FILE.json", "write the report")] = Path("gpu.json")
    seconds: Annotated[Amount, Option("N", "no other benchmark is begun after this time")] = 420
    device: Annotated[
        str | None, BeforeValidator(_device), Option("cuda|cpu", "where it runs (default: cuda where there is one)")
    ] = None


def main() -> None:
    """The command."""
    run_command("python -m tests.gpu.gpu_check", __doc__, CheckOptions, check_command)


def check_command(options: CheckOptions) -> int:
    """Check, print and write the report. Returns the exit code."""
    report = check(options)
    write_json(options.output, report)
    Console(width=None if sys.stdout.isatty() else 120).print(table(report))
    print(f"all of it: {options.output}")
    return DONE if report["ok"] else FAILED


def check(options: CheckOptions) -> dict[str, Any]:
    """The report: `checks` by name, each with `ok` (None: not for this device), and `benchmarks`."""
    import torch

    from hybrid_patch.runs.provenance import provenance

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    began = time.monotonic()
    checks = {}
    for run in (backends, step_against_cpu, resumed_run, no_waiting):
        print(run.__name__.replace("_", " "), file=sys.stderr, flush=True)
        checks[run.__name__] = _judged(run, device)
    benchmarks = benchmark(device, began + options.seconds)
    return {
        "machine": provenance(),
        "device": _name(device),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m tests.gpu.gpu_check", *sys.argv[1:]]),
        "seconds": time.monotonic() - began,
        "ok": all(check["ok"] is not False for check in checks.values()),
        "checks": checks,
        "benchmarks": benchmarks,
        "must_reach": _reached(benchmarks, device),
    }


def _judged(run: Callable[[str], dict[str, Any]], device: str) -> dict[str, Any]:
    """What a check finds; what it raises is what it finds too."""
    try:
        return run(device)
    except Exception as error:
        traceback.print_exc()
        return {"ok": False, "why": f"{type(error).__name__}: {error}"}


def backends(device: str) -> dict[str, Any]:
    """Log-sum-exp and its gradient by every backend that can be used here, against plain float64."""
    import torch

    from hybrid_patch.loss.logsumexp import NEVER, Backend, log_sum_exp, unusable

    rng = torch.Generator().manual_seed(0)
    query, key = (torch.randn(4, n, 14, generator=rng) * 2 for n in (1500, 2000))
    bias = torch.where(torch.rand(4, 2000, generator=rng) < 0.2, NEVER, 0.0)
    wide = query.double().requires_grad_()
    expected = (wide @ key.double().mT + bias.double()[:, None]).logsumexp(-1)
    (gradient,) = torch.autograd.grad(expected.sum(), wide)
    errors: dict[str, Any] = {}
    for backend in (name for name in get_args(Backend) if name != "auto"):
        here = query.to(device).requires_grad_()
        reason = unusable(backend, here)
        if reason:
            errors[backend] = reason
            continue
        value = log_sum_exp(here, key.to(device), bias.to(device), backend)
        (slope,) = torch.autograd.grad(value.sum(), here)
        errors[backend] = max(_error(value, expected), _error(slope, gradient))
    numbers = [error for error in errors.values() if isinstance(error, float)]
    return {"ok": max(numbers) < TOLERANCE, "relative_errors": errors}


def step_against_cpu(device: str) -> dict[str, Any]:
    """Terms and gradients of one step, against the CPU's from the same weights and batch, in float32 and bfloat16."""
    from hybrid_patch.train.step import TrainingModule

    config = compose([*SMALL, "runtime=cpu"])
    reference = _step(config)
    module, batch, sizes = reference.module, reference.batch, reference.sizes
    terms = module(batch, sizes)
    terms["loss"].backward()
    errors: dict[str, Any] = {}
    for precision in ("32-true", "bf16-mixed"):
        other = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, precision=precision))
        here = TrainingModule(other, module.objective.modalities).to(device)
        here.load_state_dict(module.state_dict())
        given = here(batch.map(lambda x: x.to(device)), sizes)
        given["loss"].backward()
        pairs = zip(here.parameters(), module.parameters(), strict=True)
        errors[f"terms, {precision}"] = max(_error(given[name], term) for name, term in terms.items())
        errors[f"gradients, {precision}"] = max(
            _error(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None
        )
    exact = max(error for what, error in errors.items() if what.endswith("32-true"))
    return {"ok": exact < 20 * TOLERANCE, "relative_errors": errors}


def resumed_run(device: str) -> dict[str, Any]:
    """A run that goes on from a checkpoint, against the same one that went through."""
    import torch

    with tempfile.TemporaryDirectory(prefix="hybrid_patch_") as name:
        through, resumed = Path(name, "through"), Path(name, "resumed")
        overrides = (*SMALL, f"runtime.device={device}", "trainer.steps=6", "trainer.checkpoint_every=3")
        _train(*overrides, f"run_dir={through}")
        shutil.copytree(through, resumed)
        first, last = sorted((resumed / "checkpoints").glob("*.pt"))
        for path in (last, resumed / "status.json"):
            path.unlink()
        _train(*overrides, f"run_dir={resumed}")
        states = [torch.load(folder / "checkpoints" / last.name, map_location="cpu") for folder in (through, resumed)]
        weights = [state["model"] for state in states]
        error = max(_error(weights[1][key], value) for key, value in weights[0].items() if value.is_floating_point())
        went_on = first.exists()
    return {"ok": went_on and error < TOLERANCE, "relative_error": error, "to_the_last_bit": error == 0}


def no_waiting(device: str) -> dict[str, Any]:
    """Forward, backward, clipping and optimizer without a wait for the device in between."""
    if device != "cuda":
        return {"ok": None, "why": "only on a GPU"}
    import torch

    step = _step(compose([*SMALL, "runtime=gpu"]))
    step.run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.step.run(step.batch, step.sizes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"ok": True}


def benchmark(device: str, until: float) -> list[dict[str, Any]]:
    """Training steps side by side, as long as there is time; the largest model first."""
    from hybrid_patch.cost.compare import compare

    steps = GPU_STEPS if device == "cuda" else {("nano", 1): CPU_STEP}
    points = []
    for (model, timesteps), overrides in steps.items():
        title = f"{model}, {timesteps} dates"
        if time.monotonic() > until:
            points.append({"title": title, "failed": "no time left"})
            continue
        runtime = "gpu" if device == "cuda" else "cpu"
        configs = {name: compose([*overrides, f"runtime={runtime}", *VARIANTS[name]]) for name in BENCHMARKED}
        limit = min(LIMIT_S, max(until - time.monotonic(), 10))
        report = compare(configs, ROUNDS, WARM_UP, limit, lambda text: print(text, file=sys.stderr, flush=True))
        points.append({"title": title, **report})
    return points


def _reached(benchmarks: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """What must be reached on a GPU, and what was found; None where it was not measured."""
    base = benchmarks[0] if device == "cuda" else {}
    pair = base.get("ratios", {}).get("hybrid/ps8")
    share = base.get("variants", {}).get("ps8", {}).get("share_of_peak_flops")
    values = (pair and pair["step_seconds"]["median"], pair and pair["peak_memory_bytes"], share)
    return [{"what": what, "must": must, "found": value} for (what, must), value in zip(MUST, values, strict=True)]


def _step(config: Config) -> Any:
    from hybrid_patch.cost.step import Step

    return Step(config)


def _train(*overrides: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_patch.train", *overrides], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


def _error(value: "torch.Tensor", expected: "torch.Tensor") -> float:
    """The largest error, relative to the largest number."""
    a, b = (x.detach().cpu().double() for x in (value, expected))
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def _shown(key: str, value: Any) -> str:
    """A figure of a check, one line for each that it holds."""
    if isinstance(value, dict):
        return "\n".join(_shown(f"{inner}", content) for inner, content in value.items())
    number = f"{value:.1e}" if isinstance(value, float) else value
    return f"{key.replace('_', ' ')}: {number}"


def table(report: dict[str, Any]) -> Table:
    """The report for people."""
    summary = Table(title=f"{report['device']}, {report['date']}, {report['seconds']:.0f} s")
    for column in ("what", "verdict", "figures"):
        summary.add_column(column)
    verdicts = {True: "ok", False: "NOT OK", None: "not here"}
    for name, row in report["checks"].items():
        figures = "\n".join(_shown(key, value) for key, value in row.items() if key != "ok")
        summary.add_row(name.replace("_", " "), verdicts[row["ok"]], figures)
    for point in report["benchmarks"]:
        steps = [
            f"{name} {row['failed']}" if "failed" in row else f"{name} {row['step_seconds']['median']:.4f} s"
            for name, row in point.get("variants", {}).items()
        ]
        summary.add_row(point["title"], point.get("failed", "measured"), ", ".join(steps))
    for row in report["must_reach"]:
        value = "unmeasured" if row["found"] is None else f"{row['found']:.2f}"
        summary.add_row(f"base, 12 dates: {row['what']}", value, f"must be {row['must']}")
    return summary


if __name__ == "__main__":
    main()
