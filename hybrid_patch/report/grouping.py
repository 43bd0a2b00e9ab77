"""The members of a sweep: runs that differ in nothing but their seed, and the axes by which members differ."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence

from hybrid_patch.config.fields import without_aside
from hybrid_patch.config.recipe import leaves
from hybrid_patch.config.schema import Config
from hybrid_patch.report.load_runs import Run

CHOICES = ("patch", "upsampler", "curriculum", "model", "masking", "loss")
"""Groups that an experiment chooses among: what differs in them are the axes, where nobody says which they are."""
NONE = "(none)"
IDLE = "–"
"""The upsampler of a run whose output patches are its processing patches: it has nothing to do."""

Leaves = dict[str, str]
"""Values of a config by dotted key, as JSON."""


@dataclasses.dataclass(frozen=True)
class Member:
    """Runs of one recipe, one per seed.

    Attributes:
        runs: at least one.
        leaves: of the recipe, without the seed.
        values: by axis, for people.
        label: that tells it from the others.
        pure: the patch size, of a member that processes and outputs the same throughout.
    """

    runs: tuple[Run, ...]
    leaves: Leaves
    values: dict[str, str]
    label: str
    pure: int | None


def leaves_of(run: Run) -> Leaves:
    """What a run's recipe says; of a run without one, what its config says of it."""
    plain = dict(run.recipe or without_aside(Config, run.config))
    return dict(leaves(plain)) if plain else {}


def members_of(runs: Sequence[Run], axes: Sequence[str] = ()) -> tuple[list[Member], list[str]]:
    """The members, in the order of their first runs, and the names of the axes.

    Args:
        axes: config keys that were swept over, as `upsampler` or `optimizer.lr`; without any they are told from what
            differs in `CHOICES`.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        leaves = {key: value for key, value in leaves_of(run).items() if key != "seed"}
        groups.setdefault(json.dumps(leaves) if leaves else str(run.path), []).append(run)
    all_leaves = [{key: x for key, x in leaves_of(group[0]).items() if key != "seed"} for group in groups.values()]
    # A run without a recipe lacks what its config does not say: that is no axis.
    with_recipe = [x for x, group in zip(all_leaves, groups.values(), strict=True) if group[0].recipe]
    known = with_recipe or [leaves for leaves in all_leaves if leaves]
    columns = _columns(known, axes)
    values = [{name: _shown(name, leaves) for name in columns} if leaves else {} for leaves in all_leaves]
    usual = {name: _usual([one[name] for one in values if name in one]) for name in columns}
    found = [
        Member(
            tuple(group), leaves, own, (group[0].recipe and _label(own, usual)) or group[0].path.name, pure_size(leaves)
        )
        for group, leaves, own in zip(groups.values(), all_leaves, values, strict=True)
    ]
    return _told_apart(found), columns


def is_swept(key: str, axes: Sequence[str]) -> bool:
    """Whether a config key is, or lies below, one of the axes."""
    return any(key == axis or key.startswith((f"{axis}.", f"{axis}[")) for axis in axes)


def roots(columns: Sequence[str], axes: Sequence[str]) -> list[str]:
    """The config keys that count as swept: those that were declared, else the groups in which members may differ."""
    return [*(axes or CHOICES), *columns]


def pure_size(leaves: Leaves) -> int | None:
    """The patch size of a recipe that processes and outputs the same in all of its steps."""
    sizes = {value for key, value in leaves.items() if key.endswith(("processing_patch_size", "output_patch_size"))}
    return int(next(iter(sizes))) if len(sizes) == 1 and next(iter(sizes)).isdigit() else None


def reference(member: Member, members: Sequence[Member], size: int) -> Member | None:
    """The pure member of a patch size that a member is held against: alike in all axes but those of patch sizes."""
    others = [other for other in members if other.pure == size]
    apart = ("patch", "upsampler", "curriculum")

    def rest(one: Member) -> dict[str, str]:
        return {name: value for name, value in one.values.items() if not is_swept(name, apart)}

    fitting = [other for other in others if rest(other) == rest(member)]
    return fitting[0] if fitting else None


def _columns(known: Sequence[Leaves], axes: Sequence[str]) -> list[str]:
    """The names of the axes: groups whose options differ, and keys that differ within an option."""
    keys = list(dict.fromkeys(itertools.chain(*known)))
    differing = [key for key in keys if len({leaves.get(key, NONE) for leaves in known}) > 1]
    columns: list[str] = []
    for axis in axes or CHOICES:
        below = [key for key in differing if is_swept(key, [axis])]
        if not below:
            continue
        names = [axis] if axis == "patch" or f"{axis}.name" in below else []
        for name in [*names, *(key for key in below if key != f"{axis}.name")]:
            # What the columns so far determine says nothing new: the sizes of a named model, the rank of an upsampler.
            if axis == name or not _determined(name, columns, known):
                columns.append(name)
    return columns


def _determined(key: str, columns: Sequence[str], known: Sequence[Leaves]) -> bool:
    seen: dict[tuple[str, ...], str] = {}
    for each in known:
        values = tuple(_shown(column, each, idle=False) for column in columns)
        if seen.setdefault(values, each.get(key, NONE)) != each.get(key, NONE):
            return False
    return bool(columns)


def _shown(column: str, leaves: Leaves, idle: bool = True) -> str:
    """The value of an axis."""
    if column == "patch":
        coarse, fine = (leaves.get(f"patch.{key}_patch_size", NONE) for key in ("processing", "output"))
        return f"ps={fine}" if coarse == fine else f"{coarse}→{fine}"
    if idle and is_swept(column, ["upsampler"]) and pure_size(leaves) is not None:
        return IDLE
    return _plain(leaves.get(f"{column}.name", leaves.get(column, NONE)))


def _plain(value: str) -> str:
    """JSON for people: texts without quotes."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, str) else value


def _usual(values: Sequence[str]) -> str | None:
    """The value that more than half have."""
    value, number = Counter(values).most_common(1)[0]
    return value if 2 * number > len(values) else None


def _label(values: Mapping[str, str], usual: Mapping[str, str | None]) -> str:
    """`guided 8→1`, `ps=8 · tiny`, `learned 8→1 · lr=0.001`; beside patch and upsampler only what is not usual."""
    words = []
    for name, value in values.items():
        if value in (IDLE, NONE, usual[name]) or name in ("upsampler", "patch"):
            continue
        words.append(value if name in CHOICES else f"{name.rpartition('.')[2]}={value}")
    first = [values[name] for name in ("upsampler", "patch") if values.get(name, IDLE) not in (IDLE, NONE)]
    return " · ".join([*([" ".join(first)] if first else []), *words])


def _told_apart(members: Sequence[Member]) -> list[Member]:
    """Labels that two members share get what else differs: an idle upsampler, or what was not swept."""
    counts: dict[str, list[Member]] = {}
    for member in members:
        counts.setdefault(member.label, []).append(member)
    found = []
    for member in members:
        alike = counts[member.label]
        if len(alike) == 1:
            found.append(member)
            continue
        keys = dict.fromkeys(itertools.chain(*(other.leaves for other in alike)))
        differing = [key for key in keys if len({other.leaves.get(key, NONE) for other in alike}) > 1]
        words = [f"{key}={_plain(member.leaves.get(key, NONE))}" for key in differing[:3]]
        extra = ", ".join(words) or member.runs[0].path.name
        found.append(dataclasses.replace(member, label=f"{member.label} ({extra})"))
    return found
