"""The commands that look at a sweep without changing it: status, wait, logs, report."""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.console import Group, RenderableType
from rich.live import Live

from hybrid_patch.config.options import Flag, Overrides, Positional
from hybrid_patch.errors import DONE, FAILED, INTERRUPTED, InputError
from hybrid_patch.runs.directory import RunDirectory
from launch.commands import SweepName
from launch.status import MemberStatus, counts, member_statuses
from launch.status_table import failures, overview, show
from launch.sweep import SweepMember, chosen_sweep, find_member

POLL = 2.0
"""Seconds between looks at a sweep."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """The sweep to show."""

    sweep: SweepName = None
    watch: Annotated[bool, Flag("--watch", "stay, and update the table until nothing is active")] = False


@dataclass(frozen=True, kw_only=True)
class WaitOptions:
    """The sweep to wait for."""

    sweep: SweepName = None


@dataclass(frozen=True, kw_only=True)
class LogsOptions:
    """The member whose output to print."""

    member: Annotated[str, Positional("ID", "its id, or the beginning or end of it; or sweep/id")]
    follow: Annotated[bool, Flag("-f", "follow the output until the member ends")] = False


@dataclass(frozen=True, kw_only=True)
class SweepReportOptions:
    """The sweep to report on."""

    sweep: SweepName = None
    options: Annotated[
        tuple[str, ...], Overrides({"key=value": "options of hybrid-patch report, as axes=[upsampler] or pictures=0"})
    ] = ()


def status_command(options: StatusOptions) -> int:
    """Show a line per member.

    Exit code: 0 all done, 1 some are not.
    """
    sweep = chosen_sweep(options.sweep)
    statuses = member_statuses(sweep, patient=True)
    if options.watch and sys.stdout.isatty():
        with Live(_status_view(sweep.name, statuses), refresh_per_second=1) as live:
            while _any_active(statuses):
                time.sleep(POLL)
                statuses = member_statuses(sweep, patient=True)
                live.update(_status_view(sweep.name, statuses))
    else:
        show(_status_view(sweep.name, statuses))
    return _exit_code(statuses)


def wait_command(options: WaitOptions) -> int:
    """Wait until no member is active; Ctrl-C leaves them running.

    Exit code: 0 all done, 1 some are not.
    """
    sweep = chosen_sweep(options.sweep)
    printed = ""
    try:
        while _any_active(statuses := member_statuses(sweep, patient=True)):
            if (line := counts(statuses)) != printed:
                print(printed := line, flush=True)
            time.sleep(POLL)
    except KeyboardInterrupt:
        print(f"still running; hybrid-patch launch wait {shlex.quote(sweep.name)} waits again", file=sys.stderr)
        return INTERRUPTED
    show(_status_view(sweep.name, statuses))
    return _exit_code(statuses)


def logs_command(options: LogsOptions) -> int:
    """Print the output of a member."""
    sweep, member = find_member(options.member)
    run = RunDirectory(sweep.run(member.id))
    printed = 0
    while True:
        active = options.follow and _any_active(member_statuses(sweep, [member], patient=True))
        path = run.output if run.output.exists() else run.log
        if path.exists():
            with path.open("rb") as file:
                file.seek(printed)
                text = file.read()
            printed += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
        elif not active:
            raise InputError(f"{member.id}: has not printed anything yet")
        if not active:
            return DONE
        time.sleep(1)


def sweep_report_command(options: SweepReportOptions) -> int:
    """Write one page about all members, missing ones included: report.html in the sweep's folder."""
    sweep = chosen_sweep(options.sweep)
    axes = ",".join(swept_keys(list(sweep.members().values())))
    defaults = {"output": str(sweep.folder / "report.html"), "axes": f"[{axes}]"}
    given = {word.partition("=")[0] for word in options.options}
    words = [*options.options, *(f"{key}={value}" for key, value in defaults.items() if key not in given)]
    command = [sys.executable, "-m", "hybrid_patch.report", str(sweep.folder), *words]
    return subprocess.run(command, check=False).returncode


def swept_keys(members: Sequence[SweepMember]) -> list[str]:
    """The keys whose values differ between the arguments of members, without the seed."""
    values: dict[str, set[str]] = {}
    for member in members:
        for word in member.arguments:
            key, _, value = word.lstrip("+~").partition("=")
            values.setdefault(key.partition("@")[2] or key, set()).add(value)
    return [key for key, several in values.items() if len(several) > 1 and key not in ("seed", "sweep_name")]


def _status_view(name: str, statuses: Sequence[MemberStatus]) -> RenderableType:
    return Group(overview(name, statuses), *failures(name, statuses))


def _any_active(statuses: Sequence[MemberStatus]) -> bool:
    return any(each.active for each in statuses)


def _exit_code(statuses: Sequence[MemberStatus]) -> int:
    return FAILED if any(each.state != "done" for each in statuses) else DONE
