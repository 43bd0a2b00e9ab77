"""For other programs: the members as JSON, CSV, Markdown and in Weights & Biases."""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid_patch.report import formatting, metrics
from hybrid_patch.report.grouping import BEST, ReportMember
from hybrid_patch.report.load_runs import Run, nested
from hybrid_patch.report.metrics import COMPARED_MEASURES, MEASURES
from hybrid_patch.report.statistics import Estimate
from hybrid_patch.report.summary import Summary

Row = dict[str, Any]


def as_json(title: str, answer: Sequence[str], summary: Summary) -> Row:
    """All that the page says, as plain values."""
    plain = dataclasses.asdict(dataclasses.replace(summary, members=[]))
    return {"title": title, "answer": list(answer), **plain, "members": [_plain(each) for each in summary.members]}


def _plain(member: ReportMember) -> Row:
    plain = dataclasses.asdict(dataclasses.replace(member, runs=[], leaves={}, by_seed={}))
    del plain["leaves"], plain["by_seed"]
    return {**plain, "kind": member.kind, "state": member.state, "runs": [run_row(run) for run in member.runs]}


def run_row(run: Run) -> Row:
    """What the page says of a run; `tile_interval` is that of its mIoU."""
    return {
        "name": run.path.name,
        "path": str(run.path),
        "id": run.identity.get("run_id"),
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "steps": run.steps_done,
        "evaluated": bool(run.evaluation),
        "tile_interval": metrics.tile_interval(run),
        "measures": metrics.scores(run) | metrics.costs(run),
    }


def as_csv(rows: Sequence[Row]) -> str:
    """Rows of a table; a row need not have all columns."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, dict.fromkeys(name for row in rows for name in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def member_rows(summary: Summary) -> list[Row]:
    """A row per member: every mean and comparison with its interval and number of seeds."""
    return [_member_row(member, summary.axes.columns) for member in summary.members]


def _member_row(member: ReportMember, columns: Sequence[str]) -> Row:
    row: Row = {
        "member": member.label,
        **{name: member.values.get(name, "") for name in columns},
        "kind": member.kind,
        "state": member.state,
        "runs": len(member.runs),
        "front": member.front,
        **{f"verdict_{name}": words for name, words in member.beats.items()},
        **{f"{kind}_not_compared": why for kind, why in member.excluded.items()},
    }
    for name, estimate in member.measures.items():
        row |= _estimate_cells(name, estimate)
    for reference, against in member.against.items():
        for name, comparison in against.comparisons.items():
            key = f"{name}_{'ratio' if MEASURES[name].kind == 'costs' else 'difference'}_to_{reference}"
            row |= _estimate_cells(key, comparison.estimate)
            row |= {f"{key}_paired": comparison.paired, f"{key}_verdict": comparison.verdict}
    if member.planned is not None:
        row |= {f"planned_{name}": value for name, value in dataclasses.asdict(member.planned).items()}
    return row


def _estimate_cells(name: str, estimate: Estimate) -> Row:
    return {name: estimate.mean, **{f"{name}_{part}": getattr(estimate, part) for part in ("low", "high", "n")}}


def as_markdown(summary: Summary, answer: Sequence[str]) -> str:
    """The answer and a table of the main numbers."""
    references = list(dict.fromkeys(name for each in summary.members for name in each.against if name != BEST))
    head = ["member", "state", *(MEASURES[name].title for name in COMPARED_MEASURES), "linear probe", "20-NN"]
    for reference in references:
        head += [f"mIoU − {reference}", f"20-NN − {reference}", f"step time / {reference}", f"memory / {reference}"]
    lines = [*(f"- {_cell(sentence)}" for sentence in answer), "", _line(head), _line(["---"] * len(head))]
    for member in summary.members:
        label = _cell(member.label)
        cells = [f"**{label}**" if member.front else label, member.state]
        cells += [formatting.with_seeds(member.measures.get(name), MEASURES[name].number) for name in COMPARED_MEASURES]
        cells += [member.beats.get(name, formatting.NOTHING) for name in ("linear probe", "20-NN")]
        for reference in references:
            comparisons = member.against[reference].comparisons if reference in member.against else {}
            cells += [formatting.verdict(comparisons.get(name), MEASURES[name].relative) for name in COMPARED_MEASURES]
        lines.append(_line(cells))
    legend = "Bold: on the Pareto front of step time, peak memory and mIoU. In brackets: the 95 % interval over seeds."
    damage = [f"- damaged: {_cell(line)}" for line in summary.damage]
    return "\n".join([*lines, "", legend, *([""] if damage else []), *damage]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Names come from files: escape what would end a cell, begin a tag or change the type."""
    return re.sub(r"([\\|*])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def log_report(runs: Sequence[Run], title: str, summary: Summary, files: Sequence[Path]) -> None:
    """Log members, figures and files to the wandb project of the runs, if they have one; offline, below `wandb/`."""
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
