"""The commands that look at a sweep and change nothing of it: status, wait, logs, collect, report."""

import shlex
import sys
import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live

from hybrid_patch.config.options import parse
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import RunDirectory
from launch.status import Standing, counts, standings
from launch.status_table import overview
from launch.sweep import Member, Sweep, member_named, sweep_named, sweeps

INTERRUPTED = 130
POLL = 2.0
"""Seconds between looks at a sweep."""


def status_command(arguments: Sequence[str]) -> int:
    """How a sweep stands."""
    flags, names = split(arguments, ("--watch",), 1)
    sweep = chosen_sweep(names)
    if "--watch" in flags and sys.stdout.isatty():
        try:
            with Live(overview(sweep.name, standings(sweep, patient=True)), refresh_per_second=1) as live:
                while unfinished(found := standings(sweep, patient=True)):
                    live.update(overview(sweep.name, found))
                    time.sleep(POLL)
                live.update(overview(sweep.name, found))
        except KeyboardInterrupt:
            return INTERRUPTED
    else:
        found = standings(sweep, patient=True)
        show(overview(sweep.name, found))
    return int(any(each.state != "done" for each in found))


def wait_command(arguments: Sequence[str]) -> int:
    """Until nothing runs or waits any more."""
    _, names = split(arguments, (), 1)
    sweep = chosen_sweep(names)
    said = ""
    try:
        while unfinished(found := standings(sweep, patient=True)):
            if (line := counts(found)) != said:
                print(said := line, flush=True)
            time.sleep(POLL)
    except KeyboardInterrupt:
        print(f"still running; python -m launch wait {shlex.quote(sweep.name)} waits again", file=sys.stderr)
        return INTERRUPTED
    show(overview(sweep.name, found))
    return int(any(each.state != "done" for each in found))


def logs_command(arguments: Sequence[str]) -> int:
    """What a member said."""
    flags, names = split(arguments, ("-f",), 1)
    if not names:
        raise InputError("logs: give the id of a member, or its beginning or end")
    sweep, member = member_named(names[0])
    run = RunDirectory(sweep.run(member.id))
    path = run.output if run.output.exists() else run.log
    if not path.exists() and ("-f" not in flags or standings(sweep, [member], patient=True)[0].idle):
        raise InputError(f"{member.id}: has not said anything yet")
    try:
        place = 0
        while True:
            goes_on = "-f" in flags and unfinished(standings(sweep, [member], patient=True))
            if path.exists():
                with path.open("rb") as file:
                    file.seek(place)
                    text = file.read()
                place += len(text)
                sys.stdout.write(text.decode(errors="replace"))
                sys.stdout.flush()
            if not goes_on:
                return 0
            time.sleep(1)
            path = run.output if run.output.exists() else run.log
    except KeyboardInterrupt:
        return INTERRUPTED


def collect_command(arguments: Sequence[str]) -> int:
    """One table of all members."""
    from launch.collect import collect

    _, names = split(arguments, (), 1)
    sweep = chosen_sweep(names)
    rows, paths = collect(sweep)
    print(f"{rows} members: {', '.join(str(path) for path in paths)}")
    return 0


def report_command(arguments: Sequence[str]) -> int:
    """One page of all members, those that are missing among them."""
    from hybrid_patch.report import __main__
    from hybrid_patch.report.options import ReportOptions

    own = [word for word in arguments if "=" in word]
    _, names = split([word for word in arguments if word not in own], (), 1)
    sweep = chosen_sweep(names)
    members = list(sweep.members().values())
    defaults = {"output": str(sweep.folder / "report.html"), "axes": f"[{','.join(swept(members))}]"}
    said = {word.partition("=")[0] for word in own}
    words = [*own, *(f"{key}={value}" for key, value in defaults.items() if key not in said)]
    request = parse(ReportOptions, [str(sweep.folder), *words])
    answer = __main__.write(
        request, lambda text: print(text, file=sys.stderr, flush=True), [sweep.run(member.id) for member in members]
    )
    print("\n".join([*answer, "", str(request.output)]))
    return 0


def swept(members: Sequence[Member]) -> list[str]:
    """The keys in whose values the arguments of members differ, but for the seed."""
    values: dict[str, set[str]] = {}
    for member in members:
        for word in member.arguments:
            key, _, value = word.lstrip("+~").partition("=")
            values.setdefault(key.partition("@")[2] or key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1 and key not in ("seed", "sweep_name")]


def show(*parts: RenderableType) -> None:
    """Print; not cut to any width where it is no terminal."""
    Console(width=None if sys.stdout.isatty() else 200).print(Group(*parts))


def unfinished(found: Sequence[Standing]) -> bool:
    """Whether anything runs or waits."""
    return any(each.goes_on for each in found)


def chosen_sweep(names: Sequence[str]) -> Sweep:
    """The sweep that is named, or the one submitted last. Raises InputError if there is none."""
    if names:
        return sweep_named(names[0])
    known = sweeps()
    if not known:
        raise InputError("no sweep was submitted from here; see --help")
    return max(
        known, key=lambda sweep: max((sweep.place(each).stat().st_mtime for each in sweep.submissions()), default=0)
    )


def split(arguments: Sequence[str], flags: Sequence[str], most: int) -> tuple[set[str], list[str]]:
    """Flags and names of a command line. Raises InputError for other flags, or more names than `most`."""
    given = {word for word in arguments if word.startswith("-")}
    names = [word for word in arguments if not word.startswith("-")]
    if given - set(flags):
        raise InputError(f"{min(given - set(flags))}: no such flag; takes: {', '.join(flags) or 'none'}")
    if len(names) > most:
        raise InputError(f"{names[most]}: one argument too many")
    return given, names
