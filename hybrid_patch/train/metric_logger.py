"""Where a run's metrics go besides its own `metrics.jsonl`, which is the truth: a metric logger may fail."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybrid_patch.config import schema

log = logging.getLogger(__name__)


class MetricLogger:
    """Takes metrics and pictures; this one drops them."""

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Log one row of `metrics.jsonl`."""

    def log_pictures(self, step: int, paths: list[Path]) -> None:
        """Log the pictures made after a step."""

    def close(self) -> None:
        """End the log."""


class WandbLogger(MetricLogger):
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

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Log a row at the run's own step, so that a resumed run continues where it was."""
        self.run.log({name: value for name, value in row.items() if value is not None}, step=row["step"])

    def log_pictures(self, step: int, paths: list[Path]) -> None:
        """Log pictures as images, by file name."""
        self.run.log({f"pictures/{path.stem}": self.wandb.Image(str(path)) for path in paths}, step=step)

    def close(self) -> None:
        """Flush and end."""
        self.run.finish()


class FailSafeLogger(MetricLogger):
    """Passes everything on to another logger until that fails; then warns once and drops the rest."""

    def __init__(self, logger: MetricLogger) -> None:
        self.logger = logger

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Log one row."""
        self._try(lambda: self.logger.log_metrics(row))

    def log_pictures(self, step: int, paths: list[Path]) -> None:
        """Log pictures."""
        self._try(lambda: self.logger.log_pictures(step, paths))

    def close(self) -> None:
        """End the log."""
        self._try(self.logger.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            log.warning("the metric logger failed (%s); metrics go to metrics.jsonl alone", _first_line(error))
            self.logger = MetricLogger()


def open_logger(config: schema.Logger, run_id: str, run_dir: Path, plain_config: dict[str, Any]) -> MetricLogger:
    """The logger that a config names; one that drops everything, with a warning, if it cannot be started."""
    if isinstance(config, schema.NoLogger):
        return MetricLogger()
    try:
        return FailSafeLogger(WandbLogger(config, run_id, run_dir, plain_config))
    except Exception as error:
        log.warning("wandb could not be started (%s); metrics go to metrics.jsonl alone", _first_line(error))
        return MetricLogger()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
