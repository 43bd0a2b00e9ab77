"""The members of a sweep: runs that differ in nothing but their seed, and the axes in which members differ."""

import dataclasses
import functools
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_patch.config.fields import without_aside
from hybrid_patch.config.recipe import leaves
from hybrid_patch.config.schema import Config
from hybrid_patch.report.load_runs import Run
from hybrid_patch.report.statistics import Comparison, Estimate, Seed
from hybrid_patch.runs.sweep_manifest import planned_runs

CHOICES = ("patch", "upsampler", "curriculum", "model", "masking", "loss")
"""Config groups that an experiment chooses among: the axes, where neither a manifest nor the user names them."""
NONE, UNUSED = "(none)", "–"
"""An axis that a config lacks, and the upsampler and the curriculum of a pure run."""
BEST = "best"
"""The reference of all other members' comparisons with the one of the highest mean mIoU."""
STATES = ("failed", "damaged", "missing", "stopped", "running", "queued", "done")
"""The state of a member is the first of these that one of its runs is in."""

Leaves = dict[str, str]  # values of a config by dotted key, as JSON


@dataclasses.dataclass
class Against:
    """Comparisons with the member of a label, by measure: differences of scores, ratios of costs."""

    label: str
    comparisons: dict[str, Comparison]


@dataclasses.dataclass
class Planned:
    """What a member was predicted to cost."""

    flops_per_step: float | None
    peak_memory_bytes: int
    parameters: int


@dataclasses.dataclass
class ReportMember:
    """The runs of one recipe, one per seed, and the numbers that `summarize` adds.

    Attributes:
        leaves: of the recipe, without the seed.
        values: by axis, for people.
        by_seed, measures: what counts of its runs, and its means, by measure.
        step_times: seconds of a step, of several parts of each run that counts.
        shared_machine: one of these runs had its machine not for itself.
        against: comparisons with the pure members, by `ps=8` and `ps=1`, and with `BEST`.
        beats: by classifier, in words, which baselines all of its runs beat.
        beats_raw: whether all of its runs beat the raw bands, by the linear probe.
        excluded: why its `scores`, and why its `costs`, are not compared; empty where they are.
    """

    leaves: Leaves
    runs: list[Run] = dataclasses.field(default_factory=list)
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    label: str = ""
    by_seed: dict[str, dict[Seed, float]] = dataclasses.field(default_factory=dict)
    measures: dict[str, Estimate] = dataclasses.field(default_factory=dict)
    step_times: list[list[float]] = dataclasses.field(default_factory=list)
    shared_machine: bool = False
    against: dict[str, Against] = dataclasses.field(default_factory=dict)
    beats: dict[str, str] = dataclasses.field(default_factory=dict)
    beats_raw: bool = False
    excluded: dict[str, str] = dataclasses.field(default_factory=dict)
    planned: Planned | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    front: bool = False

    @functools.cached_property
    def pure(self) -> int | None:
        """Its patch size, if it processes and outputs the same size throughout."""
        return _pure_size(self.leaves)

    @property
    def kind(self) -> str:
        """`ps=8`, `ps=1`, …, or `hybrid`."""
        return "hybrid" if self.pure is None else f"ps={self.pure}"

    @property
    def state(self) -> str:
        """The most noteworthy state of its runs."""
        return min((run.state for run in self.runs), key=lambda x: STATES.index(x) if x in STATES else -1)

    def comparable(self, *names: str) -> bool:
        """Whether it has the measures, and both its scores and its costs may be compared."""
        return all(name in self.measures for name in names) and not any(self.excluded.values())


def swept_keys(folders: Sequence[Path]) -> list[str]:
    """The keys, but for the seed, whose values differ in submitted sweeps; none if a folder has no manifest."""
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
    """The leaves of a run's recipe, else of its config."""
    plain = dict(run.recipe or without_aside(Config, run.config))
    return dict(leaves(plain)) if plain else {}


def members_of(runs: Sequence[Run], axes: Sequence[str] = ()) -> tuple[list[ReportMember], list[str]]:
    """The members, in the order of their first runs, and the columns that tell them apart: axes, else `CHOICES`."""
    by_recipe: dict[str, ReportMember] = {}
    for run in runs:
        recipe = {key: value for key, value in recipe_leaves(run).items() if key != "seed"}
        key = json.dumps(recipe) if recipe else str(run.path)
        by_recipe.setdefault(key, ReportMember(recipe)).runs.append(run)
    members = list(by_recipe.values())
    # A run without a recipe lacks what its config does not have: that makes no axis.
    comparable = [member.leaves for member in members if member.runs[0].recipe]
    columns = _columns(comparable or [member.leaves for member in members if member.leaves], axes)
    for member in members:
        if member.leaves:
            member.values = {name: _shown(name, member.leaves) for name in columns}
    majority = {name: _majority([member.values[name] for member in members if member.values]) for name in columns}
    for member in members:
        label = _label(member, majority) if member.runs[0].recipe else ""
        member.label = label or member.runs[0].path.name
    _make_labels_unique(members)
    return members, columns


def is_swept(key: str, axes: Sequence[str]) -> bool:
    """Whether a config key is one of the axes, or below one."""
    return any(key == axis or key.startswith((f"{axis}.", f"{axis}[")) for axis in axes)


def _pure_size(leaves: Leaves) -> int | None:
    sizes = {value for key, value in leaves.items() if key.endswith(("processing_patch_size", "output_patch_size"))}
    return int(next(iter(sizes))) if len(sizes) == 1 and next(iter(sizes)).isdigit() else None


def reference(member: ReportMember, members: Sequence[ReportMember], size: int) -> ReportMember | None:
    """The pure member of a patch size that a member is compared with: alike in all axes but those of patch sizes."""

    def other_axes(each: ReportMember) -> dict[str, str]:
        return {name: x for name, x in each.values.items() if not is_swept(name, ("patch", "upsampler", "curriculum"))}

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
        group = [axis] if f"{axis}.name" in below or (axis == "patch" and below) else []
        for name in [*group, *(key for key in below if key != f"{axis}.name")]:
            # Skip what the columns so far determine: the sizes of a named model, the rank of an upsampler.
            if axis == name or not _determined(name, columns, recipes):
                columns.append(name)
    return columns


def _determined(key: str, columns: Sequence[str], recipes: Sequence[Leaves]) -> bool:
    """Whether recipes that are alike in the columns are alike in the key."""
    rows = [tuple(_shown(column, recipe, mark_unused=False) for column in columns) for recipe in recipes]
    with_key = {(row, recipe.get(key)) for row, recipe in zip(rows, recipes, strict=True)}
    return len(with_key) == len(set(rows))


def _shown(column: str, leaves: Leaves, mark_unused: bool = True) -> str:
    if column == "patch":
        coarse, fine = (leaves.get(f"patch.{key}_patch_size", NONE) for key in ("processing", "output"))
        return f"ps={fine}" if coarse == fine else f"{coarse}→{fine}"
    if mark_unused and is_swept(column, ["upsampler", "curriculum"]) and _pure_size(leaves) is not None:
        return UNUSED
    return _unquoted(leaves.get(f"{column}.name", leaves.get(column, NONE)))


def _unquoted(value: str) -> str:
    """JSON for people: strings without quotes."""
    return json.loads(value) if value.startswith('"') else value


def _majority(values: Sequence[str]) -> str | None:
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _label(member: ReportMember, majority: Mapping[str, str | None]) -> str:
    """`guided 8→1`, `ps=8 · tiny`, `learned 8→1 · lr=0.001`: patch and upsampler, and what most members do not have."""
    values = member.values
    named = {"upsampler": _shown("upsampler", member.leaves)} | values if "patch" in values else values
    first = [named[name] for name in ("upsampler", "patch") if named.get(name, NONE) not in (UNUSED, NONE)]
    words = [
        value if name in CHOICES else f"{name.rpartition('.')[2]}={value}"
        for name, value in values.items()
        if value not in (UNUSED, NONE, majority[name]) and name not in ("upsampler", "patch")
    ]
    return " · ".join(filter(None, [" ".join(first), *words]))


def _make_labels_unique(members: Sequence[ReportMember]) -> None:
    """Append to labels that several members share what else differs: an unused upsampler, or a key that is no axis."""
    same_label: dict[str, list[ReportMember]] = defaultdict(list)
    for member in members:
        same_label[member.label].append(member)
    for group in same_label.values():
        keys = differing_keys([member.leaves for member in group])[:3]
        ends = [key.rpartition(".")[2] for key in keys]
        words = dict(zip(keys, ends if len(set(ends)) == len(ends) else keys, strict=True))
        texts = [
            ", ".join(f"{word}={_unquoted(member.leaves.get(key, NONE))}" for key, word in words.items())
            for member in group
        ]
        for part in (lambda path: path.name, str):  # folders of two sweeps may have the same name
            if len(set(texts)) < len(group):
                texts = [part(member.runs[0].path) for member in group]
        for member, text in zip(group, texts, strict=True):
            member.label += f" ({text})" if len(group) > 1 else ""
