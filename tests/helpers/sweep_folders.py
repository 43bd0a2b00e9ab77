"""Run directories as a training and an evaluation write them, with numbers that a test chooses."""

import copy
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from building import TINY
from pydantic import TypeAdapter

from hybrid_patch.config.compose import compose
from hybrid_patch.config.recipe import recipe, run_id
from hybrid_patch.config.schema import Config
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.provenance import provenance
from hybrid_patch.runs.sweep_manifest import MANIFEST

_CONFIG = TypeAdapter(Config)
STEPS = 60


@cache
def _composed(overrides: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any], str]:
    config = compose([*TINY, *overrides])
    return _CONFIG.dump_python(config, mode="json", by_alias=True), recipe(config), run_id(config)


def make_run(
    folder: Path,
    *overrides: str,
    seed: int = 0,
    miou: float | None = 0.3,
    seconds: float = 0.05,
    memory: int = 50 * 2**20,
    state: str = "done",
    steps: int = STEPS,
    sizes: Sequence[tuple[int, int]] | None = None,
    **identity: Any,
) -> Path:
    """Write a run directory.

    Args:
        miou: of its evaluation; None: it has none.
        seconds, memory: of its steps.
        sizes: patch sizes of its steps, in equal parts; those of the config if None.
        identity: entries of `run.json` that replace those of this checkout and machine.
    """
    config, plain, name = copy.deepcopy(_composed((*overrides, f"trainer.steps={steps}")))
    config["seed"] = plain["seed"] = seed
    run = RunDirectory(folder)
    run.path.mkdir(parents=True)
    run.begin(yaml.safe_dump(config), {"run_id": f"{name}_{seed}", "recipe": plain, **provenance(), **identity})
    patch = config["patch"]
    sizes = sizes or [(patch["processing_patch_size"], patch["output_patch_size"])]
    lines = []
    for step in range(1, steps + 1):
        coarse, fine = sizes[(step - 1) * len(sizes) // steps]
        line = {
            "step": step,
            "loss": 1 + 1 / step,
            "step_seconds": seconds * (20 if step < 4 else 1 + 0.01 * (step % 3)),
            "data_seconds": 0.001,
            "peak_memory_bytes": memory,
            "processing_patch_size": coarse,
            "output_patch_size": fine,
        }
        if step % 20 == 0 and miou is not None:
            line["probe_miou"], line["knn_miou"] = miou * step / steps, 0.9 * miou * step / steps
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run.set_status(state, step=steps, steps=steps)
    if miou is not None:
        run.evaluation.write_text(json.dumps(evaluation(miou, steps)))
    return folder


def evaluation(miou: float, steps: int) -> dict[str, Any]:
    """The parts of an `evaluation.json` that a report reads."""

    def scored(value: float) -> dict[str, Any]:
        estimate = {"mean": value, "low": value - 0.03, "high": value + 0.03, "seeds": [value]}
        return {part: {"miou": estimate} for part in ("all", "mixed", "boundary")}

    def above(value: float) -> dict[str, Any]:
        return {"all": {"mean": value, "low": value - 0.03, "high": value + 0.03, "seeds": [value]}}

    return {
        "step": steps,
        "settings": {"tiles": None, "train_pixels": 1000, "knn_pixels": 100, "seeds": 1, "pooling": "mean"},
        "tiles": {"train": 4, "val": 1},
        "features": {"embedding": {"linear": scored(miou), "knn": scored(miou - 0.02)}, "raw": {"linear": scored(0.2)}},
        "structure": {"lattice_ratio": 1.01, "window_ratio": None},
        "above": {"raw": {"linear": above(miou - 0.2)}, "surroundings": {"linear": above(-0.1), "knn": above(0.01)}},
    }


def make_sweep(root: Path, seeds: int = 3) -> Path:
    """Write runs of ps=8, ps=1 and two hybrids: one clearly better than ps=8, one not."""
    noise = [0.0, 0.004, -0.003, 0.002, -0.001, 0.005, -0.004]
    for name, overrides, miou, seconds, memory in (
        ("ps8", ("patch=ps8",), 0.25, 0.03, 50),
        ("guided", ("patch=hybrid", "upsampler=guided"), 0.32, 0.05, 80),
        ("bilinear", ("patch=hybrid", "upsampler=bilinear"), 0.2475, 0.04, 55),
        ("ps1", ("patch=ps1",), 0.33, 1.9, 800),
    ):
        for seed in range(seeds):
            member_noise = noise[(seed * 3 + len(name)) % len(noise)]
            make_run(
                root / f"{name}_s{seed}", *overrides, seed=seed, miou=miou + noise[seed] + member_noise,
                seconds=seconds * (1 + member_noise), memory=memory * 2**20,
            )  # fmt: skip
    return root


def write_manifest(sweep: Path, **arguments: Sequence[str]) -> None:
    """Write the manifest of a submitted sweep: the arguments of each run, by id."""
    (sweep / MANIFEST).parent.mkdir()
    members = [{"id": run_id, "arguments": list(words)} for run_id, words in arguments.items()]
    (sweep / MANIFEST).write_text(json.dumps({"members": members}))
