"""Log runs that have ended to another logger: their metrics, evaluations and pictures.

    hybrid-patch mirror runs/upsampler logger=wandb logger.project=upsamplers
    hybrid-patch mirror runs/upsampler/guided_s0 logger=tensorboard

What is written goes into each run's folder, as if the run had been trained with that logger, in place of what the
logger wrote there before: `metrics.csv` is replaced, earlier files in `tensorboard/` are hidden by the new one, and
wandb joins what has the run's id. Runs at work are refused, all others logged.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hybrid_patch.config.command import run_command
from hybrid_patch.config.options import Overrides, Positional
from hybrid_patch.config.overrides import key_of
from hybrid_patch.errors import BAD_INPUT, DONE, InputError

if TYPE_CHECKING:
    from hybrid_patch.config.schema import Logger
    from hybrid_patch.train.loggers.backend import Backend


@dataclasses.dataclass(frozen=True, kw_only=True)
class MirrorOptions:
    run: Annotated[Path, Positional("DIR", "a run's directory, or a folder of runs")]
    overrides: Annotated[
        tuple[str, ...],
        Overrides(
            {
                "logger=wandb|tensorboard|csv": "where to: a file of conf/logger/",
                "logger.KEY=VALUE": "a value of it, as logger.mode=online or logger.project=mine",
            },
            groups=("logger",),
            required="logger=NAME",
        ),
    ] = ()

    def __post_init__(self) -> None:
        if "logger" not in map(key_of, self.overrides):
            raise InputError("logger: missing; give logger=wandb, logger=tensorboard or logger=csv")


def mirror(options: MirrorOptions) -> int:
    """Log each run; a line for each. Exit code 2 if one could not be."""
    from hybrid_patch.config.compose import compose
    from hybrid_patch.config.schema import NoLogger
    from hybrid_patch.report.load_runs import find_runs

    config = compose(options.overrides).logger
    if isinstance(config, NoLogger):
        raise InputError("logger=none: logs nothing; try logger=wandb, logger=tensorboard or logger=csv")
    code = DONE
    for path in find_runs([options.run]):
        try:
            print(f"{path}: {mirror_run(path, config)}", flush=True)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            code = BAD_INPUT
    return code


def mirror_run(path: Path, config: "Logger") -> str:
    """Log a run by a logger's config. Returns what was done. Raises InputError, also for whatever the logger raises."""
    from hybrid_patch.runs.directory import RunDirectory
    from hybrid_patch.runs.records import read_yaml
    from hybrid_patch.train.loggers.backend import LoggedRun
    from hybrid_patch.train.metric_logger import open_backend

    run = RunDirectory(path)
    rows, evaluation = run.metrics(), run.evaluated()
    if not rows:
        raise InputError(f"{path}: has no metrics yet; train it first")
    plain = read_yaml(run.config) or {}
    sweep = str(plain.get("sweep_name", path.absolute().parent.name))
    run.lock()
    try:
        backend = open_backend(config, LoggedRun(run, run.identity()["run_id"], sweep, plain, step=0))
        assert backend is not None
        pictures = sorted(run.pictures.glob("*.png"))
        try:
            for row in rows:
                log_row(backend, row, evaluation, pictures)
        finally:
            line = backend.close()
        return "; ".join(filter(None, [f"{len(rows)} rows to {config.name}", line]))
    except (InputError, OSError):
        raise
    except Exception as error:  # whatever a library of a logger raises
        raise InputError(f"{path}: {config.name} failed: {error}") from None
    finally:
        run.unlock()


def log_row(backend: "Backend", row: dict[str, Any], evaluation: dict[str, Any], pictures: list[Path]) -> None:
    """Log a row; that of the step of the evaluation has its scores, which may be newer, and its pictures."""
    from hybrid_patch.train.loggers.backend import prefixed

    values = prefixed(row)
    if row["step"] == evaluation.get("step"):
        scores: dict[str, float | None] = evaluation.get("scores", {})
        values |= {f"eval/{name}": score for name, score in scores.items() if score is not None}
        backend.log_pictures(row["step"], pictures)
    backend.log(row["step"], values)


if __name__ == "__main__":
    run_command("hybrid-patch mirror", __doc__, MirrorOptions, mirror)
