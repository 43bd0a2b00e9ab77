"""The status of a sweep as a table for the terminal, with its failures grouped."""

import shlex
import sys
import time
from collections.abc import Sequence
from math import inf

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hybrid_patch.runs.progress import LINE_SECONDS
from launch.status import MemberStatus, counts
from launch.sweep import SweepMember

MAX_LINES = 40
"""Of more members, only those that run or need a look get a line; the rest are counted."""
MAX_LABEL = 70
"""Width of the first column."""
COLOURS = {"done": "green", "running": "cyan", "stale": "red", "failed": "red", "damaged": "red"}
COLOURS |= dict.fromkeys(("stopped", "cancelled"), "yellow")
SHOWN = ("running", "stale", "damaged", "stopped", "cancelled")
"""States of members that get a line in a long table, the most urgent first."""


def show(*parts: RenderableType) -> None:
    """Print; never cut to a width where the output is no terminal."""
    Console(width=None if sys.stdout.isatty() else 200).print(Group(*parts))


def labels(members: Sequence[SweepMember]) -> dict[str, str]:
    """The arguments of each member that not all members share."""
    common = set.intersection(*(set(member.arguments) for member in members)) if members else set()
    return {
        member.id: " ".join(word for word in member.arguments if word not in common) or "default config"
        for member in members
    }


def overview(name: str, statuses: Sequence[MemberStatus], brief: bool = False) -> Table:
    """The table of a sweep's members; `brief`: all of them, with state and id only."""
    label = labels([each.member for each in statuses])
    table = Table(title=f"{name}: {counts(statuses)}", title_justify="left")
    table.add_column("member", no_wrap=True, max_width=MAX_LABEL)
    table.add_column("state", no_wrap=True)
    for column in () if brief else ("step", "it/s", "left", "loss"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("id", no_wrap=True)
    shown = statuses
    if not brief and len(statuses) > MAX_LINES:
        urgent = [each for each in statuses if each.state in SHOWN]
        shown = sorted(urgent, key=lambda each: SHOWN.index(each.state))[:MAX_LINES]
    for each in shown:
        numbers = (
            "" if each.steps is None else f"{each.step}/{each.steps}",
            "" if each.rate is None or each.state != "running" else f"{each.rate:.2f}",
            "" if each.seconds_left is None else duration(each.seconds_left),
            "" if each.loss is None else f"{each.loss:.4f}",
        )
        doing = f": {each.reason}" if each.state == "running" and each.reason else ""
        state = Text(each.state + doing, style=COLOURS.get(each.state, ""))
        table.add_row(label[each.member.id], state, *(() if brief else numbers), each.member.id)
    rest = [each for each in statuses if each not in shown]
    if rest:
        table.add_section()
        table.add_row(f"and {len(rest)} more", counts(rest))
    return table


def with_failures(name: str, statuses: Sequence[MemberStatus]) -> Group:
    """The table, failures (stale members too) by cause and place, and the command that runs them again."""
    groups: dict[str, list[MemberStatus]] = {}
    for each in statuses:
        if each.state == "failed":
            where = f" at {each.frame}" if each.frame else ""
            groups.setdefault(f"{each.cause or 'error'}{where}", []).append(each)
        elif each.state in ("stale", "damaged") or (each.state == "missing" and each.reason):
            groups.setdefault(each.state, []).append(each)
    lines = []
    for cause, members in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        ids = ", ".join(each.member.id for each in members[:3]) + (", ..." if len(members) > 3 else "")
        lines.append(f"{len(members)} × {cause}: {members[0].reason}\n    {ids}")
    states = [each.state for members in groups.values() for each in members if each.resubmittable]
    if states:
        which = "" if "missing" in states else " --failed-only"
        lines.append(f"again: hybrid-patch launch resume {shlex.quote(name)}{which}")
    return Group(overview(name, statuses), *map(Text, lines))


class Evaluations:
    """Tells how far members are that evaluate, each of them now and then."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def lines(self, statuses: Sequence[MemberStatus]) -> dict[str, str]:
        """`evaluating 12/80, 35 s left` by the id of members that evaluate and were not told of lately."""
        now = time.monotonic()
        due = [
            each for each in statuses if each.evaluating and now - self._told.get(each.member.id, -inf) > LINE_SECONDS
        ]
        self._told |= {each.member.id: now for each in due}
        return {each.member.id: _with_time(each) for each in due}


def _with_time(status: MemberStatus) -> str:
    return status.reason + ("" if status.seconds_left is None else f", {duration(status.seconds_left)} left")


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.1 d`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} d"
