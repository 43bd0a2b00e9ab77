"""Write the page: what its template is given, and the files beside it."""

import os
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2

from hybrid_patch.errors import number_of
from hybrid_patch.report import export, formatting, gallery
from hybrid_patch.report.figures import Plot, colours, inline, rendered
from hybrid_patch.report.formatting import NOTHING, listed
from hybrid_patch.report.grouping import ReportMember
from hybrid_patch.report.load_runs import Run, nested, one_line
from hybrid_patch.report.metrics import HEADS, MEASURES
from hybrid_patch.report.recommendation import RULE
from hybrid_patch.report.statistics import COVERAGE
from hybrid_patch.report.summary import REFERENCES, Summary
from hybrid_patch.runs.atomic_files import write_bytes, write_json, write_text

TEMPLATE = Path(__file__).parent / "template"
MAX_VALUES, MAX_NAMES = 6, 6  # values of a difference, and names of runs beside each, that are shown


class Page(NamedTuple):
    """All that a page is made of. `unplanned` says by directory why costs are not predicted; `max_drawn` members have
    curves and predicted costs; links are relative to `output`, the page's file."""

    title: str
    summary: Summary
    answer: Sequence[str]
    runs: Sequence[Run]
    cost_plots: Sequence[Plot]
    curve_rows: Sequence[Sequence[Plot]]
    gallery: gallery.Gallery
    unplanned: Mapping[Path, str]
    max_drawn: int
    command: str
    output: Path


def write(page: Page, folder: Path, progress: Callable[[str], None]) -> None:
    """Write the page and the files beside it."""
    output, summary = page.output, page.summary
    files = [output, *(output.with_suffix(suffix) for suffix in (".json", ".csv", ".md"))]
    write_json(files[1], export.as_json(page.title, page.answer, summary))
    write_text(files[2], export.as_csv(export.member_rows(summary)))
    write_text(files[3], export.as_markdown(summary, page.answer))
    for plot in [*page.cost_plots, *(plot for row in page.curve_rows for plot in row)]:
        for file_format in ("svg", "png"):
            files.append(folder / f"{plot.name}.{file_format}")
            write_bytes(files[-1], rendered(plot, file_format))
    write_text(output, html(page))
    try:
        export.log_report(page.runs, page.title, summary, files)
    except Exception as error:  # the report on disk must not depend on wandb
        progress(f"wandb failed ({one_line(error)}); the report is on disk only")


def html(page: Page) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals |= {"formatting": formatting, "gallery": gallery, "inline": inline, "measures": MEASURES}
    summary = page.summary
    columns, members = summary.axes.columns, summary.members
    views = [_view(member, columns, page.output) for member in members]
    options = zip(*(view["filter_values"] for view in views), strict=True)
    return environment.get_template("page.html.j2").render(
        page=page,
        summary=summary,
        columns=columns,
        written=time.strftime("%Y-%m-%d %H:%M"),
        warnings=warnings(summary),
        not_drawn=sum(not member.comparable("miou", "step_seconds") for member in members),
        coverage=f"{COVERAGE:.0%}".replace("%", " %"),
        members=list(zip(members, views, strict=True)),
        filters=[(name, dict.fromkeys(values)) for name, values in zip([*columns, "state"], options, strict=True)],
        references=[f"ps={size}" for size in REFERENCES if any(f"ps={size}" in each.against for each in members)],
        heads={name: title for name, title in HEADS.items() if any(name in each.measures for each in members)},
        colour=colours(summary),
        drawn_curves={label for figures in page.curve_rows for plot in figures for label in plot.legend},
        rule=RULE,
        max_values=MAX_VALUES,
        max_names=MAX_NAMES,
        evaluated_by=_evaluated_by(page.runs),
        provenance=provenance(page.runs),
        trained=next((shlex.quote(str(run.path.absolute())) for run in page.runs if run.config), ""),
    )


def warnings(summary: Summary) -> list[str]:
    """What a reader must know before the numbers."""
    sentences = []
    for state, word in (
        ("failed", "failed"),
        ("damaged", "damaged"),
        ("missing", "missing"),
        ("running", "still running"),
    ):
        if number := summary.states.get(state, 0):
            sentences.append(f"{number_of(number, 'run')} {word}: not in the means of mIoU.")
    for kind in ("scores", "costs"):
        labels_by_reason: dict[str, list[str]] = defaultdict(list)
        for member in summary.members:
            if member.excluded[kind]:
                labels_by_reason[member.excluded[kind]].append(member.label)
        for reason, labels in labels_by_reason.items():
            sentences.append(f"The {kind} of {listed(labels, MAX_NAMES)} are not compared: {reason}.")
    if flagged := [difference.key for difference in summary.differences if difference.effect == "flagged"]:
        sentences.append(f"Runs also differ in: {listed(flagged, MAX_NAMES)}.")
    return sentences


def provenance(runs: Sequence[Run]) -> dict[str, str]:
    """Code, versions and machines of the runs; several values with their numbers of runs."""
    identities = [run.identity for run in runs if run.identity]
    if not identities:
        return {"runs": "no run.json could be read"}
    versions = dict.fromkeys(key for identity in identities for key in (identity.get("versions") or {}))
    rows: dict[str, tuple[str, ...]] = {"commit": ("commit",), "uncommitted changes": ("dirty",)}
    rows |= {**{name: ("versions", name) for name in versions}, "Python": ("python",), "host": ("machine", "host")}
    rows |= {"cores": ("machine", "cpus"), "platform": ("machine", "platform")}
    values: dict[str, str] = {}
    for name, keys in rows.items():
        raw_values = (nested(identity, *keys) for identity in identities)
        counts = Counter(NOTHING if value is None else str(value) for value in raw_values).most_common()
        words = [value if len(counts) == 1 else f"{value} ({number} runs)" for value, number in counts]
        more = [f"{len(words) - MAX_VALUES} more"] if len(words) > MAX_VALUES else []
        values[name] = "; ".join(words[:MAX_VALUES] + more)
    began = sorted(identity["began"] for identity in identities if isinstance(identity.get("began"), float | int))
    days = [time.strftime("%Y-%m-%d %H:%M", time.localtime(x)) for x in (*began[:1], *began[-1:])]
    return values | {"started": " to ".join(dict.fromkeys(days))}


def _evaluated_by(runs: Sequence[Run]) -> str:
    counts: Counter[str] = Counter()
    for run in runs:
        tiles, settings = run.evaluation.get("tiles"), run.evaluation.get("settings")
        if isinstance(tiles, Mapping) and isinstance(settings, Mapping):
            commit = nested(run.evaluation.get("machine", run.identity), "commit")
            text = (
                f"on {_tiles(tiles.get('train'), 'training')} and {_tiles(tiles.get('val'), 'validation')}, with "
                f"{settings.get('train_pixels')} pixels for the probe and {settings.get('knn_pixels')} for the "
                f"neighbours, drawn {number_of(settings.get('seeds', 1), 'time')}"
            )
            counts[f"{text}, at commit {str(commit)[:10]}" if commit else text] += 1
    return "; ".join(f"{number_of(number, 'run')} {how}" for how, number in counts.most_common(MAX_VALUES))


def _tiles(number: object, kind: str) -> str:
    """`4 training tiles`"""
    return number_of(number, f"{kind} tile") if isinstance(number, int) else f"{kind} tiles"


def _view(member: ReportMember, columns: Sequence[str], output: Path) -> dict[str, Any]:
    """What the page says of a member besides its numbers."""
    states = Counter(run.state for run in member.runs)
    marks = [f"{kind} not compared" for kind, why in member.excluded.items() if why]
    if not_evaluated := sum(run.state == "done" and not run.evaluation for run in member.runs):
        marks.append("not evaluated" if not_evaluated == states["done"] else f"{not_evaluated} not evaluated")
    return {
        "states": ", ".join(f"{number} {state}" for state, number in states.items()),
        "marks": marks,
        "filter_values": [*(member.values.get(name, NOTHING) for name in columns), member.state],
        "runs": [
            export.run_row(run) | {"link": f"{quote(os.fsencode(os.path.relpath(run.path, output.parent)))}/"}
            for run in member.runs
        ],
    }
