"""The page: what the template is given, in words and marks."""

import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2

from hybrid_patch.report import formatting, metrics
from hybrid_patch.report.figures import Drawn, colours, inline
from hybrid_patch.report.gallery import Gallery
from hybrid_patch.report.load_runs import Run
from hybrid_patch.report.statistics import COVERAGE

TEMPLATE = Path(__file__).parent / "template"
MOST_VALUES, MOST_NAMES = 6, 6
"""Values of a difference, and names of runs beside each, that are shown; of more the page says how many."""


class Page(NamedTuple):
    """All that a page is made of.

    Attributes:
        title: of the sweep.
        summary: `hybrid_patch.report.summary`.
        answer: sentences.
        runs: that were read.
        scatters, curves: figures; the curves in rows.
        curve_note: which members are drawn, if not all.
        gallery: the pictures.
        plan_note: why there is no plan, or of which runs.
        command: that wrote the page.
        output: its file; links lead from there.
        beside: names of the files beside it.
    """

    title: str
    summary: Mapping[str, Any]
    answer: Sequence[str]
    runs: Sequence[Run]
    scatters: Sequence[Drawn]
    curves: Sequence[Sequence[Drawn]]
    curve_note: str
    gallery: Gallery
    plan_note: str
    command: str
    output: Path
    beside: Sequence[str]


def html(page: Page) -> str:
    """The page as one file that needs no other."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    summary = page.summary
    rows = summary["members"]
    columns = summary["axes"]["columns"]
    references = [f"ps={size}" for size in (8, 1) if any(f"ps={size}" in row["against"] for row in rows)]
    return environment.get_template("page.html.j2").render(
        css=(TEMPLATE / "page.css").read_text(),
        js=(TEMPLATE / "page.js").read_text(),
        title=page.title,
        written=time.strftime("%Y-%m-%d %H:%M"),
        run_count=len(page.runs),
        states=summary["states"],
        answer=page.answer,
        warnings=warnings(summary),
        scatters=[{"title": one.title, "svg": inline(one)} for one in page.scatters],
        undrawn=_undrawn(rows),
        coverage=f"{COVERAGE:.0%}".replace("%", " %"),
        members=[_member(row, columns, page.output) for row in rows],
        columns=columns,
        filters=_filters(rows, columns),
        references=references,
        colour=colours(rows),
        baselines=summary["baselines"],
        absent=summary["absent"],
        costs=metrics.COSTS,
        shown=lambda name, value: formatting.SHOWN[name](value),
        interval=lambda name, one: formatting.between(one, formatting.SHOWN[name]),
        counted=formatting.counted,
        against_shown=lambda name, one: _against_shown(name)(one["estimate"]["mean"]),
        against_interval=lambda name, one: formatting.between(one["estimate"], _against_shown(name)),
        against_seeds=_against_seeds,
        curve_rows=[[{"title": one.title, "svg": inline(one)} for one in figures] for figures in page.curves],
        curved={label for figures in page.curves for one in figures for label in one.legend},
        curve_note=page.curve_note,
        tiles=page.gallery.tiles,
        classes=page.gallery.classes,
        pictures_note=page.gallery.note,
        axes_text=_axes_text(summary["axes"]),
        differences=[{**one, "shown": _values(one["values"])} for one in summary["differences"]],
        time_note=summary["time_note"],
        evaluated_by=_evaluated_by(page.runs),
        provenance=provenance(page.runs),
        planned=_planned(rows),
        plan_note=page.plan_note,
        command=page.command,
        again=next((_again(run) for run in page.runs if run.config), ""),
        files=", ".join(page.beside),
    )


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the numbers."""
    found = []
    for state, word in (("failed", "failed"), ("missing", "missing"), ("running", "still running")):
        number = summary["states"].get(state, 0)
        if number:
            found.append(f"{number} run{'' if number == 1 else 's'} {word}: not in the means of mIoU.")
    for what in ("scores", "costs"):
        labels = [row["label"] for row in summary["members"] if row["apart"][what]]
        if labels:
            found.append(f"The {what} of {_few(labels)} are not compared: {summary_reason(summary, what)}.")
    flagged = [one["key"] for one in summary["differences"] if one["effect"] == "flagged"]
    if flagged:
        found.append(f"Runs differ besides in: {_few(flagged)}.")
    return found


def summary_reason(summary: Mapping[str, Any], what: str) -> str:
    """Why, for the first member that is kept apart."""
    return next(str(row["apart"][what]) for row in summary["members"] if row["apart"][what])


def provenance(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What the runs were made with; several values with their numbers of runs."""
    identities = [run.identity for run in runs if run.identity]

    def each(name: str, *keys: str) -> tuple[str, str]:
        values = []
        for identity in identities:
            node: Any = identity
            for key in keys:
                node = node.get(key) if isinstance(node, Mapping) else None
            values.append("–" if node is None else str(node))
        counts = Counter(values).most_common()
        words = [value if len(counts) == 1 else f"{value} ({number} runs)" for value, number in counts[:MOST_VALUES]]
        more = [f"{len(counts) - MOST_VALUES} more"] if len(counts) > MOST_VALUES else []
        return name, "; ".join(words + more)

    began = [identity["began"] for identity in identities if isinstance(identity.get("began"), float | int)]
    days = [time.strftime("%Y-%m-%d %H:%M", time.localtime(x)) for x in (min(began), max(began))] if began else []
    if not identities:
        return [("runs", "no run.json could be read")]
    versions = dict.fromkeys(key for one in identities for key in (one.get("versions") or {}))
    return [
        each("commit", "commit"),
        each("uncommitted changes", "dirty"),
        *(each(name, "versions", name) for name in versions),
        each("Python", "python"),
        *(each(name, "machine", key) for name, key in (("host", "host"), ("cores", "cpus"), ("platform", "platform"))),
        ("begun", " to ".join(dict.fromkeys(days))),
    ]


def _evaluated_by(runs: Sequence[Run]) -> str:
    made: Counter[str] = Counter()
    for run in runs:
        evaluation = run.evaluation
        if evaluation:
            tiles, settings = evaluation.get("tiles"), evaluation.get("settings")
            machine = evaluation.get("machine")
            commit = machine.get("commit") if isinstance(machine, Mapping) else run.identity.get("commit")
            if isinstance(tiles, Mapping) and isinstance(settings, Mapping):
                made[
                    f"on {tiles.get('train')} training and {tiles.get('val')} validation tiles, "
                    f"{settings.get('train_pixels')} pixels for the probe, "
                    f"{settings.get('knn_pixels')} neighbours, {settings.get('seeds')} draw(s) of them, "
                    f"commit {str(commit)[:10]}"
                ] += 1
    return "; ".join(f"{number} run(s) {how}" for how, number in made.most_common(MOST_VALUES)) + ("." if made else "")


def _member(row: Mapping[str, Any], columns: Sequence[str], output: Path) -> dict[str, Any]:
    states = Counter(run["state"] for run in row["runs"])
    unevaluated = sum(run["state"] == "done" and not run["evaluated"] for run in row["runs"])
    marks = [f"{what} not compared" for what in ("scores", "costs") if row["apart"][what]]
    if unevaluated:
        marks.append("not evaluated" if unevaluated == states["done"] else f"{unevaluated} not evaluated")
    n = row["measures"].get("miou", {}).get("n", 0)
    lines = [row["label"]]
    for name, words in (("miou", "mIoU"), ("step_seconds", "step time"), ("peak_memory_bytes", "peak memory")):
        if name in row["measures"]:
            lines.append(f"{words} {formatting.with_seeds(row['measures'][name], formatting.SHOWN[name])}")
    lines.append(f"{len(row['runs'])} run{'' if len(row['runs']) == 1 else 's'}; a click opens them")
    runs = [{**run, "href": _href(Path(run["path"]), output)} for run in row["runs"]]
    return {
        **row,
        "runs": runs,
        "states": ", ".join(f"{number} {state}" for state, number in states.items()),
        "marks": marks,
        "n": n,
        "tip": "\n".join(lines),
        "filter": [*(row["values"].get(name, "–") for name in columns), row["state"]],
    }


def _href(path: Path, output: Path) -> str:
    """From the page to a run's folder."""
    return quote(os.path.relpath(path.absolute(), output.absolute().parent)) + "/"


def _filters(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[tuple[str, list[str]]]:
    found = [(name, list(dict.fromkeys(row["values"].get(name, "–") for row in rows))) for name in columns]
    return [*found, ("state", list(dict.fromkeys(row["state"] for row in rows)))]


def _against_shown(name: str) -> Any:
    return formatting.times if name in metrics.COSTS else formatting.signed


def _against_seeds(one: Mapping[str, Any]) -> str:
    if one["verdict"] == "too few seeds":
        return f"{formatting.counted(one['estimate'])}: no verdict"
    return f"{formatting.counted(one['estimate'])}{'' if one['paired'] else ', not paired'}"


def _axes_text(axes: Mapping[str, Any]) -> str:
    if axes["declared"]:
        return ", ".join(axes["declared"])
    told = "; told from what differs, as nothing says which the axes are (axes=[…] does)"
    return (", ".join(axes["columns"]) or "nothing") + told


def _values(values: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    found = [(value if len(value) < 200 else f"{value[:199]}…", _few(names)) for value, names in values.items()]
    more = [("…", f"{len(found) - MOST_VALUES} more values")] if len(found) > MOST_VALUES else []
    return found[:MOST_VALUES] + more


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


def _undrawn(rows: Sequence[Mapping[str, Any]]) -> int:
    drawn = [
        row for row in rows if {"miou", "step_seconds"} <= row["measures"].keys() and not any(row["apart"].values())
    ]
    return len(rows) - len(drawn)


def _planned(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    found = []
    for row in rows:
        planned = row["planned"]
        if not planned:
            continue
        measured, step = (row["measures"].get(name) for name in ("peak_memory_bytes", "step_seconds"))
        flops, memory = planned["flops_per_step"], planned["peak_memory_bytes"]
        found.append(
            {
                "label": row["label"],
                "parameters": f"{planned['parameters']:,}",
                "flops": formatting.flops(flops) if flops else "–",
                "rate": f"{formatting.flops(flops / step['mean'])}/s" if flops and step else "–",
                "memory": formatting.mebibytes(memory),
                "measured": formatting.with_seeds(measured, formatting.mebibytes) if measured else "–",
                "error": f"{memory / measured['mean'] - 1:+.0%}" if measured else "–",
            }
        )
    return found


def _again(run: Run) -> str:
    """What trains a run again, from its own config."""
    folder = shlex.quote(str(run.path.absolute()))
    return f"python -m hybrid_patch.train --config-path {folder} --config-name config run_dir=…"
