"""Write a report: the page and the files beside it, or the table."""

import shlex
from collections.abc import Callable, Sequence
from functools import partial

from hybrid_patch.errors import require_extra
from hybrid_patch.report import benchmarks, conclusions, curves
from hybrid_patch.report.formatting import listed
from hybrid_patch.report.grouping import members_of, swept_keys
from hybrid_patch.report.load_runs import find_runs, load_run, whole
from hybrid_patch.report.options import PICTURES, ReportOptions
from hybrid_patch.report.predictions import predict_runs
from hybrid_patch.report.run_table import run_rows, write_table
from hybrid_patch.report.summary import add_predictions, summarize
from hybrid_patch.runs.records import read_record
from hybrid_patch.runs.sweep_manifest import MANIFEST, SWEEP_RECORD_OF

MAX_DRAWN = 24  # members with curves and with predicted costs, which take about a second for each shape


def write_report(options: ReportOptions, progress: Callable[[str], None]) -> list[str]:
    """Write a report; returns what to tell the user, a line each. Raises InputError for folders without a run."""
    if options.table is None:
        require_extra("report", "jinja2", "matplotlib", "PIL")
        require_extra("eval", "scipy")
    paths = find_runs(options.folders)
    progress(f"reading {len(paths)} runs")
    runs = [load_run(path) for path in paths]
    damage: list[str] = []
    for manifest in (folder / MANIFEST for folder in options.folders):
        whole(manifest, partial(read_record, manifest, SWEEP_RECORD_OF), damage, None)
    axes = options.axes or swept_keys(options.folders)
    if options.table is not None:
        write_table(run_rows(members_of(runs, axes)[0]), options.table)
        damage += [each for run in runs for each in run.damage]
        return [*_listed(damage), f"{len(runs)} runs: {options.table}"]

    from hybrid_patch.report import figures, gallery, render  # a table needs none of their imports

    summary = summarize(runs, axes)
    if benchmark := benchmarks.read_benchmark(options.folders, damage):
        benchmarks.use_benchmark(benchmark, summary)
    summary.damage = damage = [*damage, *summary.damage]
    drawn = sorted(summary.members, key=lambda member: member.pure is None)[:MAX_DRAWN]  # pure ones, then the best
    progress("predicting their costs")
    predicted, failed = predict_runs([run for member in drawn for run in member.runs if run.state != "missing"])
    add_predictions(summary, predicted)
    folder = options.output.with_name(f"{options.output.stem}_figures")
    page = render.Page(
        title=listed([folder.absolute().name for folder in options.folders], 4),
        summary=summary,
        answer=conclusions.answer(summary),
        runs=runs,
        cost_plots=figures.cost_plots(summary),
        curve_rows=figures.curve_plots(curves.curves_of(drawn, predicted), figures.colours(summary)),
        gallery=gallery.gallery(drawn, options.pictures, folder, progress),
        unplanned=failed,
        max_drawn=MAX_DRAWN,
        command=_command(options),
        output=options.output,
    )
    progress("drawing")
    render.write(page, folder, progress)
    return [*page.answer, "", *_listed(damage), str(options.output)]


def _listed(damage: Sequence[str]) -> list[str]:
    return [" ".join(f"damaged: {each}".split()) for each in damage]


def _command(options: ReportOptions) -> str:
    """What writes this page again."""
    words = [*map(str, options.folders), f"output={options.output}"]
    words += [f"axes=[{','.join(options.axes)}]"] if options.axes else []
    words += [f"pictures={options.pictures}"] if options.pictures != PICTURES else []
    return f"hybrid-patch report {shlex.join(words)}"
