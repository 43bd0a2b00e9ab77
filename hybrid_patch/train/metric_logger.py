"""The mirror of a run's metrics. The run directory's own `metrics.jsonl` is the truth; a mirror may fail."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hybrid_patch.config import schema

log = logging.getLogger(__name__)


@runtime_checkable
class Mirror(Protocol):
    """Somewhere else that metrics and pictures go."""

    def metrics(self, row: dict[str, Any]) -> None:
        """One row of `metrics.jsonl`."""
        ...

    def pictures(self, step: int, paths: list[Path]) -> None:
        """Pictures made after a step."""
        ...

    def close(self) -> None:
        """The run ends."""
        ...


class NoMirror:
    """Nothing is mirrored."""

    def metrics(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def pictures(self, step: int, paths: list[Path]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class WandbMirror:
    """Weights & Biases. Offline it writes below the run directory; `wandb sync <run dir>/wandb/*` uploads it later."""

    def __init__(self, config: schema.Wandb, run_id: str, run_dir: Path, plain_config: dict[str, Any]) -> None:
        import wandb

        self.wandb = wandb
        self.run = wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group,
            tags=list(config.tags),
            mode=config.mode,
            id=run_id,
            name=run_id,
            dir=run_dir,
            config=plain_config,
            resume="allow",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def metrics(self, row: dict[str, Any]) -> None:
        """Under the run's own step, so that a resumed run goes on where it was."""
        self.run.log({name: value for name, value in row.items() if value is not None}, step=row["step"])

    def pictures(self, step: int, paths: list[Path]) -> None:
        """As images, by file name."""
        self.run.log({f"pictures/{path.stem}": self.wandb.Image(str(path)) for path in paths}, step=step)

    def close(self) -> None:
        """Flush and end."""
        self.run.finish()


class Guarded:
    """A mirror that may fail: the first time it does it is said, and from then on nothing is mirrored."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def metrics(self, row: dict[str, Any]) -> None:
        """One row."""
        self._try(lambda: self.mirror.metrics(row))

    def pictures(self, step: int, paths: list[Path]) -> None:
        """Pictures."""
        self._try(lambda: self.mirror.pictures(step, paths))

    def close(self) -> None:
        """The end."""
        self._try(self.mirror.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            log.warning("the mirror failed (%s); metrics go to metrics.jsonl alone", _first_line(error))
            self.mirror = NoMirror()


def open_mirror(config: schema.Logger, run_id: str, run_dir: Path, plain_config: dict[str, Any]) -> Mirror:
    """The mirror that a config names; none, with a warning, where it cannot be opened."""
    if isinstance(config, schema.NoLogger):
        return NoMirror()
    try:
        return Guarded(WandbMirror(config, run_id, run_dir, plain_config))
    except Exception as error:
        log.warning("wandb could not be started (%s); metrics go to metrics.jsonl alone", _first_line(error))
        return NoMirror()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
