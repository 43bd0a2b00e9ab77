"""Weights & Biases."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_patch.config import schema
from hybrid_patch.runs.directory import WANDB
from hybrid_patch.train.loggers.backend import Backend, LoggedRun


class WandbBackend(Backend):
    """A run of wandb with the id of ours, in the group of its sweep, with the machine's load beside its metrics.

    Offline, each start of a run writes a folder of its own. All of them have the run's id, by which `wandb sync` joins
    them in the order of their start.
    """

    def __init__(self, config: schema.Wandb, run: LoggedRun) -> None:
        import wandb

        self.folder = run.directory.path / WANDB
        self.offline = config.mode == "offline"
        self.run = wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group or run.sweep,
            tags=list(config.tags),
            mode=config.mode,
            id=run.id,
            name=run.id,
            dir=run.directory.path,
            config=dict(run.config),
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        self.run.log(dict(values), step=step)

    def log_pictures(self, step: int, paths: Sequence[Path]) -> None:
        import wandb

        self.run.log({f"eval/{path.stem}": wandb.Image(str(path)) for path in paths}, step=step)

    def close(self) -> str:
        self.run.finish()
        return f"to upload: wandb sync {shlex.quote(str(self.folder))}/offline-run-*" if self.offline else ""
