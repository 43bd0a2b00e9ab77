"""All that a report says, as typed values: members with their numbers, which of them may be compared, and the best."""

import statistics as plain_statistics
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from hybrid_patch.evaluate.verdicts import in_words, of_all
from hybrid_patch.report import metrics
from hybrid_patch.report.comparability import Difference, compare_runs, sharing_a_machine
from hybrid_patch.report.grouping import BEST, CHOICES, Against, Planned, ReportMember, members_of, reference
from hybrid_patch.report.load_runs import Run
from hybrid_patch.report.metrics import MAIN_MEASURES, MEASURES
from hybrid_patch.report.predictions import Prediction, flops_per_step
from hybrid_patch.report.statistics import (
    Comparison,
    above,
    difference,
    geometric,
    over_seeds,
    over_steps,
    planned_ratio,
    ratio,
    ratio_over_steps,
)

REFERENCES = (8, 1)  # patch sizes of the pure members that others are compared with
TIME_NOTE = (
    "the median of a training's own steps after a warm-up; intervals and ratios are of the medians of up to "
    f"{metrics.PARTS} parts of each run. Ratios of runs that shared a machine at the same time are of their planned "
    "FLOPs. hybrid-patch benchmark output=benchmark.json measures in rounds in which variants take turns."
)


@dataclass
class Axes:
    """The swept config keys that a manifest or the user names, and the table's columns."""

    declared: list[str]
    columns: list[str]


@dataclass
class Summary:
    """The summary of a sweep.

    Attributes:
        members: those of the highest mean mIoU first, those that cannot be compared last.
        best: the label of the member of the highest mean mIoU; None if no evaluation counts.
        missing_seeds: by label, seeds that a member lacks and at least two others have.
        damage: `FILE, why` of each file that cannot be read, or not all of it.
    """

    axes: Axes
    members: list[ReportMember]
    best: str | None
    missing_seeds: dict[str, list[int]]
    baselines: dict[str, dict[str, float]]
    differences: list[Difference]
    time_note: str
    states: dict[str, int]
    damage: list[str]


def summarize(runs: Sequence[Run], axes: Sequence[str] = ()) -> Summary:
    """The summary of runs; `axes` are the swept config keys, where they are known."""
    members, columns = members_of(runs, axes)
    differences, excluded = compare_runs(runs, [*(axes or CHOICES), *columns])
    sharing = sharing_a_machine(runs)
    for member in members:
        _add_measures(member, excluded, sharing)
    for member in members:
        for size in REFERENCES:
            other = reference(member, members, size)
            if other is not None and other is not member:
                member.against[f"ps={size}"] = Against(other.label, _comparisons(member, other))
    mark_front(members)
    members.sort(key=lambda member: -member.measures["miou"].mean if has_score(member) else 1.0)
    best = members[0] if members and has_score(members[0]) else None
    for member in members:
        if best is not None and member is not best:
            member.against[BEST] = Against(best.label, _comparisons(member, best))
    return Summary(
        axes=Axes(list(axes), columns),
        members=members,
        best=None if best is None else best.label,
        missing_seeds=_missing_seeds(members),
        baselines=_baselines([run for run in runs if not excluded["scores"].get(run.path)]),
        differences=differences,
        time_note=TIME_NOTE,
        states=dict(Counter(run.state for run in runs)),
        damage=[each for run in runs for each in run.damage],
    )


def has_score(member: ReportMember) -> bool:
    """Whether its mIoU may be compared."""
    return "miou" in member.measures and not member.excluded["scores"]


def _add_measures(member: ReportMember, excluded: Mapping[str, Mapping[Path, str]], sharing: Set[Path]) -> None:
    """Add the numbers of the runs that may be compared; if none may, of those that deviate as the first does."""
    scored: list[Run] = []
    timed: list[Run] = []
    member.notes += [f"damaged: {each}" for run in member.runs for each in run.damage]
    for kind, measure in (("scores", metrics.scores), ("costs", metrics.costs)):
        runs = [run for run in member.runs if kind == "costs" or run.state == "done"]
        with_values = [(run, x, excluded[kind].get(run.path, "")) for run in runs if (x := measure(run))]
        reasons = [reason for _, _, reason in with_values]
        member.excluded[kind] = "" if "" in reasons or not reasons else reasons[0]
        for number, (run, values, reason) in enumerate(with_values):
            if reason != member.excluded[kind]:
                member.notes.append(f"{run.path.name}: its {kind} do not count here: {reason}")
                continue
            (scored if kind == "scores" else timed).append(run)
            seed = run.seed if run.seed is not None else -1 - number
            for name, value in values.items():
                if seed in member.by_seed.setdefault(name, {}):
                    member.notes.append(f"{run.path.name}: seed {seed} exists already; its {name} does not count")
                else:
                    member.by_seed[name][seed] = value
    member.notes = list(dict.fromkeys(member.notes))
    for classifier, title in (("linear", "linear probe"), ("knn", "20-NN")):
        verdicts = of_all(metrics.beaten(run, classifier) for run in scored)
        if words := in_words(verdicts):
            member.beats[title] = words
        if classifier == "linear":
            member.beats_raw = verdicts.get("raw", False)
    for name, by_seed in member.by_seed.items():
        mean = geometric if MEASURES[name].kind == "costs" else over_seeds
        member.measures[name] = above(MEASURES[name].lowest, mean(list(by_seed.values())))
    member.step_times = list(filter(None, map(metrics.step_seconds_of_parts, timed)))
    member.shared_machine = any(run.path in sharing for run in timed)
    if member.step_times:
        member.measures["step_seconds"] = over_steps(member.step_times)


def _comparisons(member: ReportMember, other: ReportMember) -> dict[str, Comparison]:
    """A member against a reference, in the measures in which both may be compared."""
    comparisons = {}
    for name, measure in MEASURES.items():
        kinds = ("scores", "costs") if name == "hours" else (measure.kind,)  # other steps take other hours
        a, b = member.by_seed.get(name), other.by_seed.get(name)
        if a and b and not any(each.excluded[kind] for each in (member, other) for kind in kinds):
            if name == "step_seconds":
                comparisons[name] = ratio_over_steps(member.step_times, other.step_times)
            else:
                comparisons[name] = ratio(a, b) if measure.kind == "costs" else difference(a, b)
    return comparisons


def add_predictions(summary: Summary, predictions: Mapping[Path, Prediction]) -> None:
    """Add what members were planned to cost, also in place of the ratios of step times on a machine that was shared."""
    for member in summary.members:
        if planned := [(run, predictions[run.path]) for run in member.runs if run.path in predictions]:
            prediction = planned[0][1]
            flops = next(filter(None, (flops_per_step(*each) for each in planned)), None)
            member.planned = Planned(flops, prediction.peak_memory_bytes, prediction.parameters)
    by_label = {member.label: member for member in summary.members}
    for member in summary.members:
        for against in member.against.values():
            other, ratio_here = by_label[against.label], against.comparisons.get("step_seconds")
            if ratio_here is not None and (member.shared_machine or other.shared_machine):
                a, b = (None if x.planned is None else x.planned.flops_per_step for x in (member, other))
                against.comparisons["step_seconds"] = planned_ratio(a, b, ratio_here.estimate.n)


def mark_front(members: Sequence[ReportMember]) -> None:
    """Mark the members that no other equals or beats in time, memory and mIoU together, by their means."""
    points = {}
    for member in members:
        if member.comparable(*MAIN_MEASURES):
            score, *costs = (member.measures[name].mean for name in MAIN_MEASURES)
            points[member.label] = (-score, *costs)
    for member in members:
        point = points.get(member.label)
        member.front = point is not None and not any(
            other != point and all(x <= y for x, y in zip(other, point, strict=True)) for other in points.values()
        )


def _missing_seeds(members: Sequence[ReportMember]) -> dict[str, list[int]]:
    seeds = {member.label: {run.seed for run in member.runs if run.seed is not None} for member in members}
    counts = Counter(seed for of_member in seeds.values() for seed in of_member)
    common = {seed for seed, count in counts.items() if count > 1}
    lacking = {member.label: sorted(common - seeds[member.label]) for member in members if member.leaves}
    return {label: missing for label, missing in lacking.items() if missing}


def _baselines(comparable: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Means over the evaluations that may be compared, which have the same tiles."""
    values: dict[str, dict[str, list[float]]] = {}
    for run in comparable:
        for title, of_kind in metrics.baselines(run).items():
            for name, value in of_kind.items():
                values.setdefault(title, {}).setdefault(name, []).append(value)
    return {title: {name: plain_statistics.fmean(x) for name, x in each.items()} for title, each in values.items()}
