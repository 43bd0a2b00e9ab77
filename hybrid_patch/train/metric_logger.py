"""Where a run's metrics go besides its own `metrics.jsonl`, which is the truth: a metric logger may fail."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hybrid_patch.config import schema

log = logging.getLogger(__name__)


class MetricLogger:
    """Passes metrics and pictures to a wandb run until that fails; then warns once and drops the rest, as without."""

    def __init__(self, run: Any = None) -> None:
        self.run = run

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Log a row of `metrics.jsonl` at its step, so that a resumed run continues where it was."""
        values = {name: value for name, value in row.items() if value is not None}
        self._try(lambda run: run.log(values, step=row["step"]))

    def log_pictures(self, step: int, paths: Sequence[Path]) -> None:
        """Log the pictures made after a step, by file name."""
        self._try(lambda run: run.log({f"pictures/{path.stem}": _image(path) for path in paths}, step=step))

    def close(self) -> None:
        self._try(lambda run: run.finish())

    def _try(self, action: Callable[[Any], None]) -> None:
        if self.run is not None:
            try:
                action(self.run)
            except Exception as error:
                _warn("the metric logger failed", error)
                self.run = None


def open_logger(config: schema.Logger, run_id: str, run_dir: Path, plain_config: dict[str, Any]) -> MetricLogger:
    """The logger that a config names; if it cannot be started, a warning and one that drops everything."""
    if isinstance(config, schema.NoLogger):
        return MetricLogger()
    try:
        import wandb

        run = wandb.init(
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
    except Exception as error:
        _warn("wandb could not be started", error)
        return MetricLogger()
    return MetricLogger(run)


def _image(path: Path) -> Any:
    import wandb

    return wandb.Image(str(path))


def _warn(what: str, error: Exception) -> None:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    log.warning("%s (%s); metrics go to metrics.jsonl alone", what, reason)
