"""The commands that look at a sweep without changing it: status, wait, logs, report."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.live import Live

from hybrid_patch.config.options import Flag, Overrides, Positional
from hybrid_patch.errors import DONE, FAILED, INTERRUPTED, InputError
from hybrid_patch.runs.records import require_file
from launch.commands import SweepName
from launch.status import MemberStatus, counts, member_statuses
from launch.status_table import Evaluations, show, with_failures
from launch.sweep import chosen_sweep, find_member
from launch.watched import watched


@dataclass(frozen=True, kw_only=True)
class WaitOptions:
    sweep: SweepName = None


@dataclass(frozen=True, kw_only=True)
class StatusOptions(WaitOptions):
    watch: Annotated[bool, Flag("--watch", "stay, and update the table until nothing is active")] = False


@dataclass(frozen=True, kw_only=True)
class LogsOptions:
    member: Annotated[str, Positional("ID", "its id, or the beginning or end of it; or sweep/id")]
    follow: Annotated[bool, Flag("-f", "follow the output until the member ends")] = False


@dataclass(frozen=True, kw_only=True)
class SweepReportOptions(WaitOptions):
    options: Annotated[
        tuple[str, ...],
        Overrides({"key=value": "options of hybrid-patch report, as axes=[upsampler] or table=FILE.csv"}),
    ] = ()


def status_command(options: StatusOptions) -> int:
    """Show a line per member; exit code 1 unless all are done."""
    sweep = chosen_sweep(options.sweep)
    statuses = member_statuses(sweep, patient=True)
    if options.watch and sys.stdout.isatty():
        with Live(with_failures(sweep.name, statuses), refresh_per_second=1) as live:
            for statuses in watched(sweep):
                live.update(with_failures(sweep.name, statuses))
    else:
        show(with_failures(sweep.name, statuses))
    return _exit_code(statuses)


def wait_command(options: WaitOptions) -> int:
    """Wait until no member is active (Ctrl-C leaves them running); exit code 1 unless all are done."""
    sweep = chosen_sweep(options.sweep)
    printed, evaluations = "", Evaluations()
    try:
        for statuses in watched(sweep):
            if any(each.active for each in statuses) and (line := counts(statuses)) != printed:
                print(printed := line, flush=True)
            for member, line in evaluations.lines(statuses).items():
                print(f"  {member}: {line}", flush=True)
    except KeyboardInterrupt:
        print(f"still running; hybrid-patch launch wait {shlex.quote(sweep.name)} waits again", file=sys.stderr)
        return INTERRUPTED
    show(with_failures(sweep.name, statuses))
    return _exit_code(statuses)


def logs_command(options: LogsOptions) -> int:
    """Print the output of a member."""
    sweep, member = find_member(options.member)
    run = sweep.run(member.id)
    printed = 0
    for statuses in watched(sweep, [member]) if options.follow else [[]]:
        path = run.output if run.output.exists() else run.log
        require_file(path)
        if path.exists():
            with path.open("rb") as file:
                file.seek(printed)
                text = file.read()
            printed += len(text)
            print(text.decode(errors="replace"), end="", flush=True)
        elif not any(each.active for each in statuses):
            raise InputError(f"{member.id}: has not printed anything yet")
    return DONE


def sweep_report_command(options: SweepReportOptions) -> int:
    """Write one page about all members, missing ones included: report.html in the sweep's folder."""
    folder = chosen_sweep(options.sweep).folder
    command = [sys.executable, "-m", "hybrid_patch.report", str(folder), *options.options]
    if not any(word.startswith("output=") for word in options.options):
        command.append(f"output={folder / 'report.html'}")
    return subprocess.run(command, check=False).returncode


def _exit_code(statuses: Sequence[MemberStatus]) -> int:
    return FAILED if any(each.state != "done" for each in statuses) else DONE
