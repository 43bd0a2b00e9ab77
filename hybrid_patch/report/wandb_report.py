"""Log a report's table and figures to Weights & Biases, in the project of its runs, offline too."""

from collections.abc import Sequence
from pathlib import Path

from hybrid_patch.report.load_runs import Run, nested
from hybrid_patch.report.metrics import MEASURES
from hybrid_patch.report.summary import Summary


def log_report(runs: Sequence[Run], title: str, summary: Summary, files: Sequence[Path]) -> None:
    """Log a table of the members, the figures, and all files, if a run was logged to wandb.

    Offline this is written below `wandb/` beside the page; `wandb sync` uploads it later.
    """
    loggers = (run.config.get("logger") for run in runs)
    settings = next((each for each in loggers if nested(each, "name") == "wandb"), None)
    if settings is None:
        return
    import wandb

    run = wandb.init(
        **{key: settings.get(key) for key in ("project", "entity", "group", "mode")},
        name=f"report of {title}",
        job_type="report",
        dir=files[0].parent,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )
    keys = ("mean", "low", "high", "n")
    table = wandb.Table(columns=["member", "state", "front", *(f"{name}_{key}" for name in MEASURES for key in keys)])
    for member in summary.members:
        values = (getattr(member.measures.get(name), key, None) for name in MEASURES for key in keys)
        table.add_data(member.label, member.state, member.front, *values)
    run.log({"members": table})
    run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in files if path.suffix == ".png"})
    artifact = wandb.Artifact("report", type="report")
    artifact.add(table, "members")
    for path in files:
        artifact.add_file(str(path))
    run.log_artifact(artifact)
    run.finish()
