"""All that a report says, as typed values: members with their numbers, which of them may be compared, and the best."""

import statistics as plain_statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_patch.report import metrics
from hybrid_patch.report.comparability import Difference, Exclusions, differences, exclusions
from hybrid_patch.report.grouping import ReportMember, reference, swept_roots
from hybrid_patch.report.load_runs import Run
from hybrid_patch.report.metrics import MAIN_MEASURES, MEASURES
from hybrid_patch.report.predictions import Prediction, flops_per_step
from hybrid_patch.report.statistics import Comparison, Estimate, Seed, difference, geometric, over_seeds, ratio

REFERENCES = (8, 1)
"""Patch sizes of the pure members that others are compared with."""
STATES = ("failed", "missing", "preempted", "running", "queued", "done")
"""The state of a member is the first of these that one of its runs is in."""
TIME_NOTE = (
    "the median of a training's own steps after a warm-up, on a machine that may have been busy otherwise; "
    "hybrid-patch benchmark output=benchmark.json measures in rounds in which variants take turns."
)


@dataclass
class Axes:
    """The axes of a sweep.

    Attributes:
        declared: config keys that were swept over, where a manifest or the user names them.
        columns: of the table.
    """

    declared: list[str]
    columns: list[str]


@dataclass
class RunRow:
    """A run of a member.

    Attributes:
        evaluated: whether it has an evaluation.
        tile_interval: of its mIoU, over validation tiles.
        measures: of `metrics.MEASURES`, those that it has.
    """

    name: str
    path: str
    id: str | None
    seed: int | None
    state: str
    reason: str
    steps: int
    evaluated: bool
    tile_interval: tuple[float, float] | None
    measures: dict[str, float]


@dataclass
class Against:
    """A member compared with a pure one.

    Attributes:
        label: of the pure member.
        comparisons: by measure: differences of scores, ratios of costs.
    """

    label: str
    comparisons: dict[str, Comparison]


@dataclass
class Planned:
    """What a member was predicted to cost."""

    flops_per_step: float | None
    peak_memory_bytes: int
    parameters: int


@dataclass(kw_only=True)
class MemberRow:
    """A member and its numbers.

    Attributes:
        label: unique among the members.
        values: by column of the axes.
        kind: `ps=8`, `ps=1` or another pure patch size, or `hybrid`.
        state: the most noteworthy state of its runs.
        measures: means over seeds, by measure.
        against: comparisons with the pure members, by `ps=8` and `ps=1`.
        excluded: why its `scores`, and why its `costs`, are not compared; empty where they are.
        planned: None if it was not planned.
        notes: on runs that do not count, and files that cannot be read.
        front: whether it is on the Pareto front.
    """

    label: str
    values: dict[str, str]
    kind: str
    state: str
    runs: list[RunRow]
    measures: dict[str, Estimate] = field(default_factory=dict)
    against: dict[str, Against] = field(default_factory=dict)
    excluded: dict[str, str]
    planned: Planned | None = None
    notes: list[str]
    front: bool = False

    def comparable(self, *names: str) -> bool:
        """Whether it has the measures, and both its scores and its costs may be compared."""
        return all(name in self.measures for name in names) and not any(self.excluded.values())


@dataclass
class Best:
    """The member of the highest mean mIoU, and its difference to each other that may be compared with it, by label."""

    label: str
    against: dict[str, Comparison]


@dataclass
class MissingSeeds:
    """Seeds that a member lacks and others have."""

    label: str
    seeds: list[int]


@dataclass
class Summary:
    """The summary of a sweep.

    Attributes:
        members: those of the highest mean mIoU first, those that cannot be compared last.
        best: None if no evaluation counts.
        missing_seeds: of members that have fewer seeds than others.
        baselines: mean mIoU of what embeddings are compared with.
        differences: between runs, besides what was swept over.
        time_note: how step times were measured.
        states: number of runs in each.
    """

    axes: Axes
    members: list[MemberRow]
    best: Best | None
    missing_seeds: list[MissingSeeds]
    baselines: dict[str, float]
    differences: list[Difference]
    time_note: str
    states: dict[str, int]


Values = dict[str, dict[Seed, float]]
"""By measure, a value per seed."""


def summarize(
    runs: Sequence[Run], members: Sequence[ReportMember], columns: Sequence[str], axes: Sequence[str]
) -> Summary:
    """The summary of runs.

    Args:
        members, columns: of `members_of`.
        axes: the config keys that were swept over, where they are known.
    """
    swept = swept_roots(columns, axes)
    excluded = exclusions(runs, swept)
    rows: dict[str, MemberRow] = {}
    values: dict[str, Values] = {}
    for member in members:
        rows[member.label], values[member.label] = _row(member, excluded)
    for member in members:
        for size in REFERENCES:
            other = reference(member, members, size)
            if other is not None and other is not member:
                pair = [(rows[label], values[label]) for label in (member.label, other.label)]
                rows[member.label].against[f"ps={size}"] = _compared(*pair)
    ordered = sorted(rows.values(), key=_rank)
    mark_front(ordered)
    return Summary(
        Axes(list(axes), list(columns)),
        ordered,
        _best(ordered, values),
        _missing_seeds(members),
        _baselines(runs, excluded),
        differences(runs, swept),
        TIME_NOTE,
        dict(Counter(run.state for run in runs)),
    )


def _rank(row: MemberRow) -> float:
    comparable = "miou" in row.measures and not row.excluded["scores"]
    return -row.measures["miou"].mean if comparable else 1.0


def _row(member: ReportMember, exclusions: Exclusions) -> tuple[MemberRow, Values]:
    """A member's row, and the values of its runs that may be compared; of all that are alike, if none may."""
    notes = [f"{run.path.name}: {note}" for run in member.runs for note in run.notes]
    values: Values = {}
    excluded = {}
    kinds = (("scores", exclusions.scores, _final_scores), ("costs", exclusions.costs, metrics.costs))
    for kind, why, measure in kinds:
        with_values = [run for run in member.runs if measure(run)]
        comparable = [run for run in with_values if not why.get(run.path)]
        excluded[kind] = "" if comparable or not with_values else why[with_values[0].path]
        counting = comparable or [run for run in with_values if why[run.path] == excluded[kind]]
        for run in with_values:
            if run not in counting:
                notes.append(f"{run.path.name}: its {kind} do not count here: {why[run.path]}")
        for number, run in enumerate(counting):
            seed = run.seed if run.seed is not None else -1 - number
            for name, value in measure(run).items():
                if seed in values.setdefault(name, {}):
                    notes.append(f"{run.path.name}: seed {seed} exists already; its {name} does not count")
                else:
                    values[name][seed] = value
    row = MemberRow(
        label=member.label,
        values=member.values,
        kind=f"ps={member.pure}" if member.pure is not None else "hybrid",
        state=min((run.state for run in member.runs), key=lambda s: STATES.index(s) if s in STATES else -1),
        runs=[_run_row(run) for run in member.runs],
        measures={
            name: (geometric if MEASURES[name].kind == "costs" else over_seeds)(list(x.values()))
            for name, x in values.items()
        },
        excluded=excluded,
        notes=list(dict.fromkeys(notes)),
    )
    return row, values


def _final_scores(run: Run) -> dict[str, float]:
    return metrics.scores(run) if run.state == "done" else {}


def _run_row(run: Run) -> RunRow:
    return RunRow(
        run.path.name,
        str(run.path),
        run.identity.get("run_id"),
        run.seed,
        run.state,
        run.reason,
        run.steps_done,
        bool(run.evaluation),
        metrics.tile_interval(run),
        metrics.scores(run) | metrics.costs(run),
    )


def _compared(member: tuple[MemberRow, Values], other: tuple[MemberRow, Values]) -> Against:
    """A member against a reference, where both may be compared."""
    (row, values), (other_row, other_values) = member, other
    comparisons = {}
    for name, measure in MEASURES.items():
        # Another number of steps takes other hours.
        kinds = ("scores", "costs") if name == "hours" else (measure.kind,)
        a, b = values.get(name), other_values.get(name)
        if a and b and not any(each.excluded[kind] for each in (row, other_row) for kind in kinds):
            comparisons[name] = ratio(a, b) if measure.kind == "costs" else difference(a, b)
    return Against(other_row.label, comparisons)


def by_importance(members: Sequence[ReportMember], summary: Summary) -> list[ReportMember]:
    """Members in the order in which they are planned and drawn: pure ones first, then by their mean mIoU."""
    ranking = [] if summary.best is None else [summary.best.label, *summary.best.against]
    ranks = {label: rank for rank, label in enumerate(ranking)}
    return sorted(members, key=lambda member: (member.pure is None, ranks.get(member.label, len(ranks))))


def add_predictions(summary: Summary, members: Sequence[ReportMember], predictions: Mapping[Path, Prediction]) -> None:
    """Add predicted costs to the members' rows."""
    runs = {member.label: [run for run in member.runs if run.path in predictions] for member in members}
    for row in summary.members:
        planned = runs[row.label]
        if planned:
            prediction = predictions[planned[0].path]
            flops = (flops_per_step(run, predictions[run.path]) for run in planned)
            row.planned = Planned(next(filter(None, flops), None), prediction.peak_memory_bytes, prediction.parameters)


def mark_front(rows: Sequence[MemberRow]) -> None:
    """Mark the members that no other equals or beats in time, memory and mIoU together, by their means."""
    points = {}
    for row in rows:
        if row.comparable(*MAIN_MEASURES):
            score, *costs = (row.measures[name].mean for name in MAIN_MEASURES)
            points[row.label] = (-score, *costs)
    for row in rows:
        point = points.get(row.label)
        row.front = point is not None and not any(
            other != point and all(x <= y for x, y in zip(other, point, strict=True)) for other in points.values()
        )


def _best(rows: Sequence[MemberRow], values: Mapping[str, Values]) -> Best | None:
    labels = [row.label for row in rows if "miou" in row.measures and not row.excluded["scores"]]
    if not labels:
        return None
    best, *others = labels
    return Best(best, {label: difference(values[best]["miou"], values[label]["miou"]) for label in others})


def _missing_seeds(members: Sequence[ReportMember]) -> list[MissingSeeds]:
    """Seeds that a member lacks and at least two others have."""
    seeds = {member.label: {run.seed for run in member.runs if run.seed is not None} for member in members}
    counts = Counter(seed for of_member in seeds.values() for seed in of_member)
    common = {seed for seed, count in counts.items() if count > 1}
    lacking = [(member.label, sorted(common - seeds[member.label])) for member in members if member.leaves]
    return [MissingSeeds(label, missing) for label, missing in lacking if missing]


def _baselines(runs: Sequence[Run], exclusions: Exclusions) -> dict[str, float]:
    """Means over the evaluations that may be compared: they have the same tiles."""
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if not exclusions.scores.get(run.path, ""):
            for name, value in metrics.baselines(run).items():
                values[name].append(value)
    return {name: plain_statistics.fmean(scores) for name, scores in values.items()}
