"""The page's table and figures as artifacts of the sweep's run in Weights & Biases, offline too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_patch.report import metrics
from hybrid_patch.report.load_runs import Run


def settings_of(runs: Sequence[Run]) -> Mapping[str, Any] | None:
    """How the first of the runs that were mirrored is mirrored; None if none was."""
    for run in runs:
        logger = run.config.get("logger")
        if isinstance(logger, Mapping) and logger.get("name") == "wandb":
            return logger
    return None


def mirror(settings: Mapping[str, Any], title: str, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
    """A run of the project that the sweep's runs are in, with a table of the members and the files as an artifact.

    Offline it is written below `wandb/` beside the page; `wandb sync` uploads it later.
    """
    import wandb

    folder = files[0].parent
    run = wandb.init(
        project=settings.get("project"),
        entity=settings.get("entity"),
        group=settings.get("group"),
        mode=settings.get("mode"),
        name=f"report of {title}",
        job_type="report",
        dir=folder,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )
    names = [*metrics.SCORES, *metrics.COSTS]
    keys = ("mean", "low", "high", "n")
    columns: list[str | int] = ["member", "state", "front", *(f"{name}_{key}" for name in names for key in keys)]
    table = wandb.Table(columns=columns)
    for row in summary["members"]:
        estimates = [row["measures"].get(name, {}) for name in names]
        table.add_data(row["label"], row["state"], row["front"], *(one.get(key) for one in estimates for key in keys))
    run.log({"members": table})
    pictures = [path for path in files if path.suffix == ".png"]
    run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in pictures})
    artifact = wandb.Artifact("report", type="report")
    artifact.add(table, "members")
    for path in files:
        artifact.add_file(str(path))
    run.log_artifact(artifact)
    run.finish()
