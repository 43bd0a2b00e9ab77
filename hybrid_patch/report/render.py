"""Render the page: what its template is given, as text and HTML."""

import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2

from hybrid_patch.report import formatting
from hybrid_patch.report.figures import Plot, colours, inline
from hybrid_patch.report.formatting import NOTHING, listed, number_of
from hybrid_patch.report.gallery import Gallery
from hybrid_patch.report.load_runs import Run, nested
from hybrid_patch.report.metrics import MAIN_MEASURES, MEASURES
from hybrid_patch.report.statistics import COVERAGE
from hybrid_patch.report.summary import Axes, MemberRow, Summary

TEMPLATE = Path(__file__).parent / "template"
MAX_VALUES, MAX_NAMES = 6, 6
"""Values of a difference, and names of runs beside each, that are shown; the page gives the number of the others."""


class Page(NamedTuple):
    """All that a page is made of.

    Attributes:
        title: of the sweep.
        summary: its numbers.
        answer: sentences.
        runs: that were read.
        cost_plots: mIoU against costs.
        curve_rows: figures of curves, in rows.
        curve_note: which members have curves, if not all.
        gallery: the pictures.
        plan_note: on the predicted costs, and why some have none.
        command: that wrote the page.
        output: the page's file; links are relative to it.
        files: names of the files beside it.
    """

    title: str
    summary: Summary
    answer: Sequence[str]
    runs: Sequence[Run]
    cost_plots: Sequence[Plot]
    curve_rows: Sequence[Sequence[Plot]]
    curve_note: str
    gallery: Gallery
    plan_note: str
    command: str
    output: Path
    files: Sequence[str]


def html(page: Page) -> str:
    """The page as one file that needs no other."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals |= {
        name: function
        for name, function in vars(formatting).items()
        if name in ("interval", "sample_size", "comparison_seeds", "number_of")
    }
    environment.globals |= {"inline": inline, "measures": MEASURES}
    summary = page.summary
    rows = summary.members
    return environment.get_template("page.html.j2").render(
        page=page,
        summary=summary,
        columns=summary.axes.columns,
        css=(TEMPLATE / "page.css").read_text(),
        js=(TEMPLATE / "page.js").read_text(),
        written=time.strftime("%Y-%m-%d %H:%M"),
        warnings=warnings(summary),
        not_drawn=sum(not row.comparable("miou", "step_seconds") for row in rows),
        coverage=f"{COVERAGE:.0%}".replace("%", " %"),
        members=[(row, _view(row, summary.axes.columns, page.output)) for row in rows],
        filters=_filters(rows, summary.axes.columns),
        references=[f"ps={size}" for size in (8, 1) if any(f"ps={size}" in row.against for row in rows)],
        colour=colours(summary),
        drawn_curves={label for figures in page.curve_rows for plot in figures for label in plot.legend},
        axes_text=_axes_text(summary.axes),
        differences=[(difference, _values(difference.values)) for difference in summary.differences],
        evaluated_by=_evaluated_by(page.runs),
        provenance=provenance(page.runs),
        planned=list(_planned(rows)),
        again=next((_train_command(run) for run in page.runs if run.config), ""),
    )


def warnings(summary: Summary) -> list[str]:
    """What a reader must know before the numbers."""
    sentences = []
    for state, word in (("failed", "failed"), ("missing", "missing"), ("running", "still running")):
        number = summary.states.get(state, 0)
        if number:
            sentences.append(f"{number_of(number, 'run')} {word}: not in the means of mIoU.")
    for kind in ("scores", "costs"):
        excluded = [row for row in summary.members if row.excluded[kind]]
        if excluded:
            labels = listed([row.label for row in excluded], MAX_NAMES)
            sentences.append(f"The {kind} of {labels} are not compared: {excluded[0].excluded[kind]}.")
    flagged = [difference.key for difference in summary.differences if difference.effect == "flagged"]
    if flagged:
        sentences.append(f"Runs also differ in: {listed(flagged, MAX_NAMES)}.")
    return sentences


def provenance(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Code, versions and machines of the runs; several values with their numbers of runs."""
    identities = [run.identity for run in runs if run.identity]
    if not identities:
        return [("runs", "no run.json could be read")]

    def values(name: str, *keys: str) -> tuple[str, str]:
        raw_values = (nested(identity, *keys) for identity in identities)
        counts = Counter(NOTHING if value is None else str(value) for value in raw_values).most_common()
        words = [value if len(counts) == 1 else f"{value} ({number} runs)" for value, number in counts[:MAX_VALUES]]
        more = [f"{len(counts) - MAX_VALUES} more"] if len(counts) > MAX_VALUES else []
        return name, "; ".join(words + more)

    began = [identity["began"] for identity in identities if isinstance(identity.get("began"), float | int)]
    days = [time.strftime("%Y-%m-%d %H:%M", time.localtime(x)) for x in (min(began), max(began))] if began else []
    versions = dict.fromkeys(key for identity in identities for key in (identity.get("versions") or {}))
    return [
        values("commit", "commit"),
        values("uncommitted changes", "dirty"),
        *(values(name, "versions", name) for name in versions),
        values("Python", "python"),
        values("host", "machine", "host"),
        values("cores", "machine", "cpus"),
        values("platform", "machine", "platform"),
        ("started", " to ".join(dict.fromkeys(days))),
    ]


def _evaluated_by(runs: Sequence[Run]) -> str:
    settings_of_runs: Counter[str] = Counter()
    for run in runs:
        tiles, settings = run.evaluation.get("tiles"), run.evaluation.get("settings")
        if isinstance(tiles, Mapping) and isinstance(settings, Mapping):
            machine = run.evaluation.get("machine")
            commit = nested(machine if isinstance(machine, Mapping) else run.identity, "commit")
            settings_of_runs[
                f"on {tiles.get('train')} training and {tiles.get('val')} validation tiles, with "
                f"{settings.get('train_pixels')} pixels for the probe and {settings.get('knn_pixels')} for the "
                f"neighbours, drawn {settings.get('seeds')} time(s), at commit {str(commit)[:10]}"
            ] += 1
    texts = [f"{number_of(number, 'run')} {how}" for how, number in settings_of_runs.most_common(MAX_VALUES)]
    return "; ".join(texts) + ("." if texts else "")


class _MemberView(NamedTuple):
    """What the page says of a member besides its row."""

    states: str
    marks: list[str]
    tooltip: str
    filter_values: list[str]
    links: list[str]


def _view(row: MemberRow, columns: Sequence[str], output: Path) -> _MemberView:
    states = Counter(run.state for run in row.runs)
    not_evaluated = sum(run.state == "done" and not run.evaluated for run in row.runs)
    marks = [f"{kind} not compared" for kind, why in row.excluded.items() if why]
    if not_evaluated:
        marks.append("not evaluated" if not_evaluated == states["done"] else f"{not_evaluated} not evaluated")
    lines = [row.label]
    for name in MAIN_MEASURES:
        if name in row.measures:
            measure = MEASURES[name]
            lines.append(f"{measure.title} {formatting.with_seeds(row.measures[name], measure.number)}")
    lines.append(f"{number_of(len(row.runs), 'run')}; click to show")
    return _MemberView(
        ", ".join(f"{number} {state}" for state, number in states.items()),
        marks,
        "\n".join(lines),
        [*(row.values.get(name, NOTHING) for name in columns), row.state],
        [quote(os.path.relpath(Path(run.path).absolute(), output.absolute().parent)) + "/" for run in row.runs],
    )


def _filters(rows: Sequence[MemberRow], columns: Sequence[str]) -> list[tuple[str, list[str]]]:
    filters = [(name, list(dict.fromkeys(row.values.get(name, NOTHING) for row in rows))) for name in columns]
    return [*filters, ("state", list(dict.fromkeys(row.state for row in rows)))]


def _axes_text(axes: Axes) -> str:
    if axes.declared:
        return ", ".join(axes.declared)
    guessed = "; guessed from what differs, because no manifest and no axes=[…] names the axes"
    return (", ".join(axes.columns) or "nothing") + guessed


def _values(values: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    shown = [
        (value if len(value) < 200 else f"{value[:199]}…", listed(names, MAX_NAMES)) for value, names in values.items()
    ]
    more = [("…", f"{len(shown) - MAX_VALUES} more values")] if len(shown) > MAX_VALUES else []
    return shown[:MAX_VALUES] + more


def _planned(rows: Sequence[MemberRow]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row.planned is not None:
            memory_estimate, step = (row.measures.get(name) for name in ("peak_memory_bytes", "step_seconds"))
            flops, memory = row.planned.flops_per_step, row.planned.peak_memory_bytes
            yield {
                "label": row.label,
                "parameters": f"{row.planned.parameters:,}",
                "flops": formatting.flops(flops) if flops else NOTHING,
                "rate": f"{formatting.flops(flops / step.mean)}/s" if flops and step else NOTHING,
                "memory": formatting.mebibytes(memory),
                "measured": formatting.with_seeds(memory_estimate, formatting.mebibytes)
                if memory_estimate
                else NOTHING,
                "error": f"{memory / memory_estimate.mean - 1:+.0%}" if memory_estimate else NOTHING,
            }


def _train_command(run: Run) -> str:
    """Trains a run again, from its own config."""
    folder = shlex.quote(str(run.path.absolute()))
    return f"hybrid-patch train --config-path {folder} --config-name config run_dir=…"
