"""How a sweep stands, for the terminal: a line per member, and failures by what they have in common."""

import shlex
from collections.abc import Sequence

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from launch.status import STATES, Standing, counts
from launch.sweep import Member

MOST_LINES = 40
"""Members that have a line each; of more, those that run or need a look have one, and the rest are counted."""
WIDEST = 70
"""Of what sets a member apart; the rest of a line needs the width."""
COLOURS = {"done": "green", "running": "cyan", "stale": "red", "failed": "red", "stopped": "yellow"}


def labels(members: Sequence[Member]) -> dict[str, str]:
    """What sets each member apart: its arguments without those that all have."""
    common = set.intersection(*(set(member.arguments) for member in members)) if members else set()
    return {
        member.id: " ".join(word for word in member.arguments if word not in common) or "as it stands"
        for member in members
    }


def overview(name: str, found: Sequence[Standing]) -> RenderableType:
    """The table of a sweep's members, a line of counts, and its failures."""
    label = labels([each.member for each in found])
    table = Table(title=f"{name}: {counts(found)}", title_justify="left")
    for column in ("member", "state", "step", "it/s", "left", "loss", "id"):
        justify: JustifyMethod = "right" if column in ("step", "it/s", "left", "loss") else "left"
        table.add_column(column, justify=justify, no_wrap=True, max_width=WIDEST if column == "member" else None)
    shown = _shown(found)
    for each in shown:
        table.add_row(
            label[each.member.id],
            Text(each.state, style=COLOURS.get(each.state, "")),
            "" if each.steps is None else f"{each.step}/{each.steps}",
            "" if each.rate is None or each.state != "running" else f"{each.rate:.2f}",
            "" if each.seconds_left is None else duration(each.seconds_left),
            "" if each.loss is None else f"{each.loss:.4f}",
            each.member.id,
        )
    rest = [each for each in found if each not in shown]
    if rest:
        table.add_section()
        table.add_row(f"and {len(rest)} more", counts(rest))
    return Group(table, *failures(name, found))


def _shown(found: Sequence[Standing]) -> list[Standing]:
    if len(found) <= MOST_LINES:
        return list(found)
    order = ("running", "stale", "stopped", "queued", "missing", "failed", "done")
    assert set(order) == set(STATES)
    chosen = sorted(found, key=lambda each: order.index(each.state))[:MOST_LINES]
    return [each for each in found if each in chosen and each.state in ("running", "stale", "stopped")]


def failures(name: str, found: Sequence[Standing]) -> list[Text]:
    """Failed and stale members, and missing ones that their queue knows more of: a line for each cause and place, and
    the command that runs them again."""
    groups: dict[tuple[str, str], list[Standing]] = {}
    for each in found:
        if each.state == "failed":
            groups.setdefault((each.cause or "error", each.frame), []).append(each)
        if each.state == "stale":
            groups.setdefault(("stale", ""), []).append(each)
        if each.state == "missing" and each.reason:
            groups.setdefault(("missing", ""), []).append(each)
    lines = []
    for (cause, frame), members in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        where = f" at {frame}" if frame else ""
        ids = ", ".join(each.member.id for each in members[:3]) + (", ..." if len(members) > 3 else "")
        lines.append(f"{len(members)} × {cause}{where}: {members[0].reason}\n    {ids}")
    idle = [each.state for members in groups.values() for each in members if each.idle]
    if idle:
        which = "" if "missing" in idle else " --failed-only"
        lines.append(f"again: python -m launch resume {shlex.quote(name)}{which}")
    return [Text(line) for line in lines]


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.1 d`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} d"
