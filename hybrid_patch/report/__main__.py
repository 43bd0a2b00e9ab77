"""One page that answers "what should I use?": `python -m hybrid_patch.report <run dirs or a sweep's folder>`.

Cost against worth with the spread over seeds, a table, curves, pictures, what differs besides what was swept over, and
how it was measured; and the same numbers as JSON, CSV and Markdown, the figures as SVG and PNG, beside the page.
"""

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hybrid_patch.config.literal import output_file, refuse_flags
from hybrid_patch.config.options import wait_briefly
from hybrid_patch.errors import InputError, input_errors_end
from hybrid_patch.runs.atomic_files import write_bytes, write_json, write_text

if TYPE_CHECKING:
    from hybrid_patch.report.grouping import Member

USAGE = f"""{__doc__}
  FOLDER …            run directories, or folders that hold some at any depth
  output=FILE.html    the page (default report.html); beside it FILE.json, FILE.csv, FILE.md and FILE_figures/
  axes=[KEY,KEY]      config keys that were swept over, as [upsampler,optimizer.lr]; without it they are told from what
                      differs among patch, upsampler, curriculum, model, masking and loss, and all else is flagged
  pictures=N          tiles that are drawn by up to eight members (default 3; 0: none)
"""
OWN_KEYS = ("output", "axes", "pictures")
PICTURES = 3
MOST_DRAWN = 24
"""Members whose cost is planned, for which a shape takes about a second, and whose curves are drawn."""


class Request(NamedTuple):
    """What the command line asks for.

    Attributes:
        folders: runs, or where they are.
        output: the page.
        axes: config keys that were swept over; empty: to be told from what differs.
        pictures: tiles that are drawn.
    """

    folders: list[Path]
    output: Path
    axes: list[str]
    pictures: int


def main() -> None:
    """The command."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        return
    wait_briefly()
    with input_errors_end():
        request = read(sys.argv[1:])
        answer = write(request, lambda words: print(words, file=sys.stderr, flush=True))
    print("\n".join(answer))
    print(f"\n{request.output}")


def read(arguments: Sequence[str]) -> Request:
    """The request of a command line; raises InputError."""
    refuse_flags(arguments, OWN_KEYS)
    own: dict[str, str] = {}
    folders = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]+", key):
            folders.append(Path(argument))
        elif key not in OWN_KEYS:
            raise InputError(f"{argument}: not a key of this command; takes: folders, {', '.join(OWN_KEYS)}")
        elif key in own:
            raise InputError(f"{argument}: given twice; before it was {own[key]}")
        else:
            own[key] = value
    if not folders:
        raise InputError("no folder: name run directories, or a sweep's folder, as runs/first")
    output = output_file({"output": own.get("output", "report.html")})
    assert output is not None
    if output.suffix != ".html":
        raise InputError(f"output={output}: not a page's name; write one that ends in .html")
    if not re.fullmatch(r"\d+", own.get("pictures", str(PICTURES))):
        raise InputError(f"pictures={own['pictures']}: not a whole number")
    axes = own.get("axes", "[]")
    if not re.fullmatch(r"\[.*\]", axes):
        raise InputError(f"axes={axes}: not a list; write axes=[upsampler,patch]")
    words = [word.strip() for word in axes[1:-1].split(",") if word.strip()]
    return Request(folders, output, words, int(own.get("pictures", PICTURES)))


def write(request: Request, say: Callable[[str], None], expected: Sequence[Path] = ()) -> list[str]:
    """Write the page and what is beside it; returns the answer in sentences.

    Args:
        say: told what is being done.
        expected: directories of members that a sweep should have; those that do not exist are on the page as missing.

    Raises InputError for folders without a run.
    """
    from hybrid_patch.report.load_runs import find
    from hybrid_patch.report.load_runs import read as read_run

    paths = find(request.folders)
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

    members, columns = members_of(runs, request.axes)
    found = summary(runs, members, columns, request.axes)
    benchmark = benchmarks.read(request.folders)
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
    output, stem = request.output, request.output.stem
    figures_folder = output.with_name(f"{stem}_figures")
    page = Page(
        title=_title(request.folders),
        summary=found,
        answer=said,
        runs=runs,
        scatters=scatters,
        curves=rows,
        curve_note=_drawn_note("Drawn", members),
        gallery=gallery(drawn, request.pictures, figures_folder, say),
        plan_note=_plan_note(without, members),
        command=_command(request),
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


def _command(request: Request) -> str:
    """What writes this page again."""
    words = [*map(str, request.folders), f"output={request.output}"]
    words += [f"axes=[{','.join(request.axes)}]"] if request.axes else []
    words += [f"pictures={request.pictures}"] if request.pictures != PICTURES else []
    return f"python -m hybrid_patch.report {shlex.join(words)}"


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
