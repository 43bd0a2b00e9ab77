"""The members of a sweep: runs that differ in nothing but their seed, and the axes in which members differ."""

import dataclasses
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_patch.config.fields import without_aside
from hybrid_patch.config.recipe import leaves
from hybrid_patch.config.schema import Config
from hybrid_patch.report.load_runs import Run
from hybrid_patch.runs.sweep_manifest import planned_runs

CHOICES = ("patch", "upsampler", "curriculum", "model", "masking", "loss")
"""Config groups that an experiment chooses among: the axes, where neither a manifest nor the user names them."""
NONE = "(none)"
UNUSED = "–"
"""The upsampler of a run whose output patches are its processing patches."""

Leaves = dict[str, str]
"""Values of a config by dotted key, as JSON."""


@dataclasses.dataclass(frozen=True)
class ReportMember:
    """The runs of one recipe, one per seed.

    Attributes:
        runs: at least one.
        leaves: of the recipe, without the seed.
        values: by axis, for people.
        label: unique among the members.
        pure: the patch size, of a member that processes and outputs the same size throughout.
    """

    runs: tuple[Run, ...]
    leaves: Leaves
    values: dict[str, str]
    label: str
    pure: int | None


def swept_keys(folders: Sequence[Path]) -> list[str]:
    """The keys, but for the seed, whose values differ between the arguments of submitted sweeps' runs.

    Empty if one of the folders has no manifest: then only the configs can tell.
    """
    sweeps = [planned_runs(folder) for folder in folders]
    if not all(sweeps):
        return []
    values: dict[str, set[str]] = defaultdict(set)
    for run in itertools.chain(*sweeps):
        for argument in run.arguments:
            key, _, value = argument.lstrip("+~").partition("=")
            values[key.partition("@")[2] or key].add(value)
    return [key for key, options in values.items() if len(options) > 1 and key not in ("seed", "sweep_name")]


def recipe_leaves(run: Run) -> Leaves:
    """The leaves of a run's recipe, or of its config if it has no recipe."""
    plain = dict(run.recipe or without_aside(Config, run.config))
    return dict(leaves(plain)) if plain else {}


def members_of(runs: Sequence[Run], axes: Sequence[str] = ()) -> tuple[list[ReportMember], list[str]]:
    """The members, in the order of their first runs, and the names of the columns that tell them apart.

    Args:
        axes: config keys that were swept over, such as `upsampler` or `optimizer.lr`; if empty, `CHOICES`.
    """
    groups: dict[str, tuple[Leaves, list[Run]]] = {}
    for run in runs:
        without_seed = {key: value for key, value in recipe_leaves(run).items() if key != "seed"}
        key = json.dumps(without_seed) if without_seed else str(run.path)
        groups.setdefault(key, (without_seed, []))[1].append(run)
    # A run without a recipe lacks what its config does not have: that makes no axis.
    comparable = [recipe for recipe, group in groups.values() if group[0].recipe]
    columns = _columns(comparable or [recipe for recipe, _ in groups.values() if recipe], axes)
    values = [{name: _shown(name, recipe) for name in columns} if recipe else {} for recipe, _ in groups.values()]
    majority = {name: _majority([row[name] for row in values if name in row]) for name in columns}
    members = []
    for (recipe, group), row in zip(groups.values(), values, strict=True):
        label = (group[0].recipe and _label(row, majority)) or group[0].path.name
        members.append(ReportMember(tuple(group), recipe, row, label, pure_size(recipe)))
    return _with_unique_labels(members), columns


def is_swept(key: str, axes: Sequence[str]) -> bool:
    """Whether a config key is one of the axes, or below one."""
    return any(key == axis or key.startswith((f"{axis}.", f"{axis}[")) for axis in axes)


def swept_roots(columns: Sequence[str], axes: Sequence[str]) -> list[str]:
    """The config keys that count as swept: the declared axes, or else `CHOICES`; and the columns."""
    return [*(axes or CHOICES), *columns]


def pure_size(leaves: Leaves) -> int | None:
    """The patch size of a recipe that processes and outputs the same size in all of its steps."""
    sizes = {value for key, value in leaves.items() if key.endswith(("processing_patch_size", "output_patch_size"))}
    return int(next(iter(sizes))) if len(sizes) == 1 and next(iter(sizes)).isdigit() else None


def reference(member: ReportMember, members: Sequence[ReportMember], size: int) -> ReportMember | None:
    """The pure member of a patch size that a member is compared with: alike in all axes but those of patch sizes."""
    ignored = ("patch", "upsampler", "curriculum")

    def other_axes(each: ReportMember) -> dict[str, str]:
        return {name: value for name, value in each.values.items() if not is_swept(name, ignored)}

    return next((each for each in members if each.pure == size and other_axes(each) == other_axes(member)), None)


def differing_keys(recipes: Sequence[Leaves]) -> list[str]:
    """The keys whose values are not the same in all recipes."""
    keys = dict.fromkeys(itertools.chain(*recipes))
    return [key for key in keys if len({recipe.get(key, NONE) for recipe in recipes}) > 1]


def _columns(recipes: Sequence[Leaves], axes: Sequence[str]) -> list[str]:
    """Groups whose options differ, and keys that differ within an option."""
    differing = differing_keys(recipes)
    columns: list[str] = []
    for axis in axes or CHOICES:
        below = [key for key in differing if is_swept(key, [axis])]
        if not below:
            continue
        names = [axis] if axis == "patch" or f"{axis}.name" in below else []
        for name in [*names, *(key for key in below if key != f"{axis}.name")]:
            # Skip what the columns so far determine: the sizes of a named model, the rank of an upsampler.
            if axis == name or not _determined(name, columns, recipes):
                columns.append(name)
    return columns


def _determined(key: str, columns: Sequence[str], recipes: Sequence[Leaves]) -> bool:
    value_by_columns: dict[tuple[str, ...], str] = {}
    for recipe in recipes:
        values = tuple(_shown(column, recipe, mark_unused=False) for column in columns)
        if value_by_columns.setdefault(values, recipe.get(key, NONE)) != recipe.get(key, NONE):
            return False
    return bool(columns)


def _shown(column: str, leaves: Leaves, mark_unused: bool = True) -> str:
    """The value of a column."""
    if column == "patch":
        coarse, fine = (leaves.get(f"patch.{key}_patch_size", NONE) for key in ("processing", "output"))
        return f"ps={fine}" if coarse == fine else f"{coarse}→{fine}"
    if mark_unused and is_swept(column, ["upsampler"]) and pure_size(leaves) is not None:
        return UNUSED
    return _unquoted(leaves.get(f"{column}.name", leaves.get(column, NONE)))


def _unquoted(value: str) -> str:
    """JSON for people: strings without quotes."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, str) else value


def _majority(values: Sequence[str]) -> str | None:
    """The value that more than half have."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _label(values: Mapping[str, str], majority: Mapping[str, str | None]) -> str:
    """`guided 8→1`, `ps=8 · tiny`, `learned 8→1 · lr=0.001`: patch and upsampler, and what most members do not have."""
    words = []
    for name, value in values.items():
        if value in (UNUSED, NONE, majority[name]) or name in ("upsampler", "patch"):
            continue
        words.append(value if name in CHOICES else f"{name.rpartition('.')[2]}={value}")
    first = [values[name] for name in ("upsampler", "patch") if values.get(name, UNUSED) not in (UNUSED, NONE)]
    return " · ".join([*([" ".join(first)] if first else []), *words])


def _with_unique_labels(members: Sequence[ReportMember]) -> list[ReportMember]:
    """Append to labels that several members share what else differs: an unused upsampler, or a key that is no axis."""
    same_label: dict[str, list[ReportMember]] = defaultdict(list)
    for member in members:
        same_label[member.label].append(member)
    unique = []
    for member in members:
        group = same_label[member.label]
        if len(group) > 1:
            keys = differing_keys([other.leaves for other in group])[:3]
            words = [f"{key}={_unquoted(member.leaves.get(key, NONE))}" for key in keys]
            extra = ", ".join(words) or member.runs[0].path.name
            member = dataclasses.replace(member, label=f"{member.label} ({extra})")
        unique.append(member)
    return unique
