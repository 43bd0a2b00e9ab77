"""Compare runs on one page that answers "what should I use?".

Cost against worth with the spread over seeds, a table, curves, pictures, what differs besides what was swept over, and
how it was measured; and the same numbers as JSON, CSV and Markdown, the figures as SVG and PNG, beside the page.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_patch.config.command import run_command
from hybrid_patch.errors import require_extra
from hybrid_patch.report.options import PICTURES, ReportOptions
from hybrid_patch.runs.atomic_files import write_bytes, write_json, write_text

if TYPE_CHECKING:
    from hybrid_patch.report.grouping import Member

MOST_DRAWN = 24
"""Members whose cost is planned, for which a shape takes about a second, and whose curves are drawn."""


def main() -> None:
    """The command."""
    run_command("hybrid-patch report", __doc__, ReportOptions, report_command)


def report_command(options: ReportOptions) -> None:
    """Write the page and print the answer."""
    require_extra("report", "jinja2", "matplotlib", "PIL", "pyarrow")
    answer = write(options, lambda words: print(words, file=sys.stderr, flush=True))
    print("\n".join(answer))
    print(f"\n{options.output}")


def write(options: ReportOptions, say: Callable[[str], None], expected: Sequence[Path] = ()) -> list[str]:
    """Write the page and what is beside it; returns the answer in sentences.

    Args:
        say: told what is being done.
        expected: directories of members that a sweep should have; those that do not exist are on the page as missing.

    Raises InputError for folders without a run.
    """
    from hybrid_patch.report.load_runs import find
    from hybrid_patch.report.load_runs import read as read_run

    paths = find(options.folders)
    known = {path.absolute() for path in paths}
    paths += [path for path in expected if path.absolute() not in known]
    say(f"reading {len(paths)} runs")
    runs = [read_run(path) for path in paths]

    from hybrid_patch.report import benchmarks
    from hybrid_patch.report.conclusions import answer
    from hybrid_patch.report.curves import curves_of
    from hybrid_patch.report.export import as_csv, as_markdown
    from hybrid_patch.report.figures import colours, curves, rendered, scatter
    from hybrid_patch.report.gallery import gallery
    from hybrid_patch.report.grouping import members_of
    from hybrid_patch.report.predictions import plans
    from hybrid_patch.report.render import Page, html
    from hybrid_patch.report.summary import add_plans, first_to_look_at, mark_front, summary
    from hybrid_patch.report.wandb_report import mirror, settings_of

    members, columns = members_of(runs, options.axes)
    found = summary(runs, members, columns, options.axes)
    benchmark = benchmarks.read(options.folders)
    if benchmark is not None:
        found["time_note"] = benchmarks.use(benchmark, found, members)
        mark_front(found["members"])
    drawn = first_to_look_at(members, found)[:MOST_DRAWN]
    say("working out what they were expected to take")
    planned, without = plans([run for member in drawn for run in member.runs if run.state != "missing"])
    add_plans(found, members, planned)
    said = answer(found)
    scatters = [one for cost in ("step_seconds", "peak_memory_bytes", "hours") if (one := scatter(found, cost))]
    lines = curves_of(drawn, planned)
    colour = colours(found["members"])
    over = ("steps", "minutes", "flops")
    rows = [[one for x in over if (one := curves(lines, figure, x, colour))] for figure in ("loss", "probe")]
    rows = [figures for figures in rows if figures]
    output, stem = options.output, options.output.stem
    figures_folder = output.with_name(f"{stem}_figures")
    page = Page(
        title=_title(options.folders),
        summary=found,
        answer=said,
        runs=runs,
        scatters=scatters,
        curves=rows,
        curve_note=_drawn_note("Drawn", members),
        gallery=gallery(drawn, options.pictures, figures_folder, say),
        plan_note=_plan_note(without, members),
        command=_command(options),
        output=output,
        beside=[f"{stem}.json", f"{stem}.csv", f"{stem}.md", f"{stem}_figures/ (SVG, PNG)"],
    )
    say("drawing")
    write_json(output.with_suffix(".json"), {"title": page.title, "answer": said, **found})
    write_text(output.with_suffix(".csv"), as_csv(found))
    write_text(output.with_suffix(".md"), as_markdown(found, said))
    files = [output, *(output.with_suffix(suffix) for suffix in (".json", ".csv", ".md"))]
    for figure in [*scatters, *(one for figures in rows for one in figures)]:
        for kind in ("svg", "png"):
            files.append(figures_folder / f"{figure.name}.{kind}")
            write_bytes(files[-1], rendered(figure, kind))
    write_text(output, html(page))
    settings = settings_of(runs)
    if settings is not None:
        try:
            mirror(settings, page.title, found, files)
        except Exception as error:  # as with a run's mirror: what is on the disk is the truth
            say(f"wandb failed ({' '.join(str(error).split())[:200]}); the report is on the disk alone")
    return said


def _command(options: ReportOptions) -> str:
    """What writes this page again."""
    words = [*map(str, options.folders), f"output={options.output}"]
    words += [f"axes=[{','.join(options.axes)}]"] if options.axes else []
    words += [f"pictures={options.pictures}"] if options.pictures != PICTURES else []
    return f"hybrid-patch report {shlex.join(words)}"


def _title(folders: Sequence[Path]) -> str:
    names = [folder.absolute().name for folder in folders]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _drawn_note(word: str, members: Sequence["Member"]) -> str:
    if len(members) <= MOST_DRAWN:
        return ""
    return f"{word}: pure members and then the best, {MOST_DRAWN} of {len(members)}."


def _plan_note(without: Mapping[Path, str], members: Sequence["Member"]) -> str:
    notes = [
        "What is planned is the tensors of a training step; a process on a CPU holds more, of libraries and of memory "
        "that it does not give back.",
        _drawn_note("Planned", members),
    ]
    if without:
        path, why = next(iter(without.items()))
        more = f", and {len(without) - 1} more" if len(without) > 1 else ""
        notes.append(f"No plan of {path.name}{more}: {why}.")
    return " ".join(filter(None, notes))


if __name__ == "__main__":
    main()
