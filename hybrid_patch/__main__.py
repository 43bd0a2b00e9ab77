"""`hybrid-patch COMMAND ...` and `python -m hybrid_patch COMMAND ...`: every command under one name."""

import runpy
import sys

from hybrid_patch.config.command import answer_help, rows_text
from hybrid_patch.config.messages import did_you_mean
from hybrid_patch.errors import InputError, input_errors_end

COMMANDS = {
    "train": ("hybrid_patch.train", "pretrain a model: one run, or a sweep with -m"),
    "finetune": ("hybrid_patch.finetune", "train a head for labels of pixels on a pretrained run, frozen or whole"),
    "evaluate": ("hybrid_patch.evaluate", "score a run's embeddings by a linear probe and nearest neighbours"),
    "embed": ("hybrid_patch.embed", "embed a scene of any size into a GeoTIFF"),
    "export": ("hybrid_patch.export", "write a run's model as a folder to share, with a model card"),
    "mirror": ("hybrid_patch.mirror", "log finished runs to Weights & Biases, TensorBoard or a table"),
    "report": ("hybrid_patch.report", "compare runs on one page"),
    "plan": ("hybrid_patch.plan", "predict memory, FLOPs and GPU-hours of runs before any is started"),
    "benchmark": ("hybrid_patch.benchmark", "measure time and memory of a training step, variants in turns"),
    "benchmark-loading": ("hybrid_patch.cost.loading_benchmark", "measure how fast batches are loaded"),
    "benchmark-embed": ("hybrid_patch.cost.map_benchmark", "measure the time to embed a scene, variants in turns"),
    "resume": ("hybrid_patch.resume", "go on with a run from its directory"),
    "data describe": ("hybrid_patch.evaluate.describe", "describe a data set before anything is trained on it"),
    "launch": ("launch", "run sweeps on this machine's slots or on SLURM"),
}
"""The module of each command, and what it does."""


def main() -> None:
    """Run the command that is named; without one, or with --help before it, list the commands."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if arguments and f"{name} {arguments[0]}" in COMMANDS:
        name = f"{name} {arguments.pop(0)}"
    if name.startswith("-"):
        answer_help([name], help_text)
    with input_errors_end():
        if name not in COMMANDS:
            raise InputError(f"{name}: no such command; takes: {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}")
    sys.argv[1:] = arguments
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


def help_text() -> str:
    rows = [(name, summary) for name, (_, summary) in COMMANDS.items()]
    rows.append(("--help, --version", "print this, or the version, and do nothing else"))
    return (
        "usage: hybrid-patch COMMAND ...\n\nPretrain Earth-observation transformers on coarse patches, get embeddings "
        f"for every pixel.\n\n{rows_text(rows)}\n\nhybrid-patch COMMAND --help explains a command and its options."
    )


if __name__ == "__main__":
    main()
