"""Where a run's metrics go besides its own `metrics.jsonl`, which is the truth: a metric logger may fail."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hybrid_patch.config import schema
from hybrid_patch.train.loggers.backend import Backend, LoggedRun, prefixed

log = logging.getLogger(__name__)


class MetricLogger:
    """Passes metrics and pictures to a backend until that fails; then warns once and drops the rest, as without."""

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend = backend

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Log a row of `metrics.jsonl` at its step, so that a resumed run continues where it was."""
        self._try(lambda backend: backend.log(row["step"], prefixed(row)))

    def log_pictures(self, step: int, paths: Sequence[Path]) -> None:
        """Log the pictures made after a step, by file name."""
        self._try(lambda backend: backend.log_pictures(step, paths))

    def close(self) -> None:
        """Write what is left, and say what there is to do with it."""
        if line := self._try(lambda backend: backend.close()):
            log.info("%s", line)

    def _try(self, action: Callable[[Backend], str | None]) -> str | None:
        if self.backend is not None:
            try:
                return action(self.backend)
            except Exception as error:
                _warn("the metric logger failed", error)
                self.backend = None
        return None


def open_logger(config: schema.Logger, run: LoggedRun) -> MetricLogger:
    """The logger that a config names; if it cannot be started, a warning and one that drops everything."""
    try:
        return MetricLogger(open_backend(config, run))
    except Exception as error:
        _warn(f"{config.name} could not be started", error)
        return MetricLogger()


def open_backend(config: schema.Logger, run: LoggedRun) -> Backend | None:
    """The backend that a config names; None for none. Raises what its library raises, InputError without that."""
    match config:
        case schema.Wandb():
            from hybrid_patch.train.loggers.wandb_backend import WandbBackend

            return WandbBackend(config, run)
        case schema.Tensorboard():
            from hybrid_patch.train.loggers.tensorboard_backend import TensorboardBackend

            return TensorboardBackend(run)
        case schema.Csv():
            from hybrid_patch.train.loggers.csv_backend import CsvBackend

            return CsvBackend(run)
        case schema.NoLogger():
            return None


def _warn(what: str, error: Exception) -> None:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    log.warning("%s (%s); metrics go to metrics.jsonl alone", what, reason)
