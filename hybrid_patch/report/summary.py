"""All that a page says, as plain values: members with their numbers, what may be compared, and the answer."""

import statistics as plain_statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_patch.report import metrics
from hybrid_patch.report.comparability import Comparable, comparable, differences
from hybrid_patch.report.grouping import Member, reference, roots
from hybrid_patch.report.load_runs import Run
from hybrid_patch.report.predictions import Plan, flops_per_step
from hybrid_patch.report.statistics import Comparison, Seed, difference, geometric, over_seeds, ratio

REFERENCES = (8, 1)
"""Patch sizes of the pure members that others are held against."""
SCORES = tuple(metrics.SCORES)
STATES = ("failed", "missing", "preempted", "running", "queued", "done")
"""Of several runs, a member is in the state that comes first here, for people to look at."""

Values = dict[str, dict[Seed, float]]
"""By measure, a value per seed."""


class Measured(NamedTuple):
    """A member and what was measured of it.

    Attributes:
        member: the runs.
        values: of the runs that count.
        apart: why its scores, and why its costs, are not compared; empty where they are.
        notes: on runs that do not count.
    """

    member: Member
    values: Values
    apart: dict[str, str]
    notes: list[str]


def summary(
    runs: Sequence[Run], members: Sequence[Member], columns: Sequence[str], axes: Sequence[str]
) -> dict[str, Any]:
    """The summary of runs.

    Args:
        members, columns: of `members_of`.
        axes: the config keys that were swept over, where they are known.
    """
    swept = roots(columns, axes)
    allowed = comparable(runs, swept)
    measured = [_measure(member, allowed) for member in members]
    rows = sorted((_row(one, measured) for one in measured), key=_place)
    mark_front(rows)
    found: dict[str, Any] = {
        "axes": {"declared": list(axes), "columns": list(columns)},
        "members": rows,
        "best": _best(measured, rows),
        "absent": _absent(members),
        "baselines": _baselines(runs, allowed),
        "differences": [one._asdict() for one in differences(runs, swept)],
        "time_note": "the median of a training's own steps after a warm-up, on a machine that may have had other work "
        "too; not rounds in turns, as python -m hybrid_patch.benchmark output=benchmark.json has them.",
        "states": dict(Counter(run.state for run in runs)),
    }
    return found


def _place(row: Mapping[str, Any]) -> float:
    """In the table: the best mean mIoU first, members without one that can be compared last."""
    comparable = "miou" in row["measures"] and not row["apart"]["scores"]
    return -row["measures"]["miou"]["mean"] if comparable else 1.0


def _measure(member: Member, allowed: Comparable) -> Measured:
    """The values of a member's runs that may be compared; of all that are alike, if none may."""
    notes = [f"{run.path.name}: {note}" for run in member.runs for note in run.notes]
    values: Values = {}
    apart = {}
    finished = [run for run in member.runs if run.state == "done" and metrics.scores(run)]
    timed = [run for run in member.runs if metrics.costs(run)]
    for what, runs, why in (("scores", finished, allowed.scores), ("costs", timed, allowed.costs)):
        fitting = [run for run in runs if not why.get(run.path)]
        apart[what] = "" if fitting or not runs else why[runs[0].path]
        kept = fitting or [run for run in runs if why[run.path] == apart[what]]
        notes += [f"{run.path.name}: its {what} do not count here: {why[run.path]}" for run in runs if run not in kept]
        for number, run in enumerate(kept):
            seed = run.seed if run.seed is not None else -1 - number
            for name, value in (metrics.scores(run) if what == "scores" else metrics.costs(run)).items():
                if seed in values.setdefault(name, {}):
                    notes.append(f"{run.path.name}: seed {seed} is there already; its {name} does not count")
                else:
                    values[name][seed] = value
    return Measured(member, values, apart, list(dict.fromkeys(notes)))


def _row(one: Measured, all_measured: Sequence[Measured]) -> dict[str, Any]:
    member = one.member
    by_label = {other.member.label: other for other in all_measured}
    members = [other.member for other in all_measured]
    against = {}
    for size in REFERENCES:
        found = reference(member, members, size)
        if found is not None and found is not member:
            against[f"ps={size}"] = _against(one, by_label[found.label])
    return {
        "label": member.label,
        "values": member.values,
        "kind": f"ps={member.pure}" if member.pure is not None else "hybrid",
        "state": min((run.state for run in member.runs), key=lambda s: STATES.index(s) if s in STATES else -1),
        "runs": [_run(run) for run in member.runs],
        "measures": {
            name: (geometric if name in metrics.COSTS else over_seeds)(list(x.values()))._asdict()
            for name, x in one.values.items()
        },
        "against": against,
        "apart": one.apart,
        "planned": {},
        "notes": one.notes,
        "front": False,
    }


def first_to_look_at(members: Sequence[Member], found: Mapping[str, Any]) -> list[Member]:
    """Members in the order in which they are worth drawing: pure ones, then by their mean mIoU."""
    best = [] if found["best"] is None else [found["best"]["label"], *found["best"]["against"]]
    places = {label: place for place, label in enumerate(best)}
    return sorted(members, key=lambda one: (one.pure is None, places.get(one.label, len(places))))


def add_plans(found: Mapping[str, Any], members: Sequence[Member], plans: Mapping[Path, Plan]) -> None:
    """Put what was planned beside what was measured."""
    by_label = {member.label: member for member in members}
    for row in found["members"]:
        member = by_label[row["label"]]
        planned = [run for run in member.runs if run.path in plans]
        if planned:
            plan = plans[planned[0].path]
            row["planned"] = {
                "flops_per_step": next((x for run in planned if (x := flops_per_step(run, plans[run.path]))), None),
                "peak_memory_bytes": plan.peak_memory_bytes,
                "parameters": plan.parameters,
            }


def _against(one: Measured, other: Measured) -> dict[str, Any]:
    """A member against a reference: differences of scores, ratios of costs, where both may be compared."""
    found: dict[str, Any] = {"label": other.member.label}
    for name in (*SCORES, *metrics.COSTS):
        what = ["costs"] if name in metrics.COSTS else ["scores"]
        if name == "hours":
            what = ["costs", "scores"]  # another number of steps takes other hours
        mine, its = one.values.get(name), other.values.get(name)
        if mine and its and not any(x.apart[kind] for x in (one, other) for kind in what):
            found[name] = plain(ratio(mine, its) if name in metrics.COSTS else difference(mine, its))
    return found


def plain(comparison: Comparison) -> dict[str, Any]:
    """A comparison as plain values."""
    return {**comparison._asdict(), "estimate": comparison.estimate._asdict()}


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.path.name,
        "path": str(run.path),
        "id": run.identity.get("run_id"),
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "steps": run.steps_done,
        "evaluated": bool(run.evaluation),
        "ground_interval": metrics.ground_interval(run),
        **metrics.scores(run),
        **metrics.costs(run),
    }


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The members whose scores and costs may be compared, and who have them."""
    needed = ("miou", "step_seconds", "peak_memory_bytes")
    return [dict(row) for row in rows if all(x in row["measures"] for x in needed) and not any(row["apart"].values())]


def mark_front(rows: Sequence[dict[str, Any]]) -> None:
    """Members that no other beats, or equals, in time, memory and mIoU together, by their means."""
    points = {
        row["label"]: (
            row["measures"]["step_seconds"]["mean"],
            row["measures"]["peak_memory_bytes"]["mean"],
            -row["measures"]["miou"]["mean"],
        )
        for row in compared(rows)
    }
    for row in rows:
        own = points.get(row["label"])
        row["front"] = own is not None and not any(
            other != own and all(x <= y for x, y in zip(other, own, strict=True)) for other in points.values()
        )


def _best(measured: Sequence[Measured], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The member of the highest mean mIoU, against each other one that it may be compared with."""
    values = {
        one.member.label: one.values["miou"] for one in measured if "miou" in one.values and not one.apart["scores"]
    }
    if not values:
        return None
    means = {row["label"]: row["measures"]["miou"]["mean"] for row in rows if row["label"] in values}
    order = sorted(means, key=lambda label: -means[label])
    best, *others = order
    return {"label": best, "against": {label: plain(difference(values[best], values[label])) for label in others}}


def _absent(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Seeds that a member lacks and at least two others have."""
    counts = Counter(seed for member in members for seed in {run.seed for run in member.runs} if seed is not None)
    seeds = {seed for seed, number in counts.items() if number > 1}
    found = []
    for member in members:
        own = {run.seed for run in member.runs}
        if member.leaves and (lacking := sorted(seeds - own)):
            found.append({"label": member.label, "seeds": lacking})
    return found


def _baselines(runs: Sequence[Run], allowed: Comparable) -> dict[str, float]:
    """Means over the evaluations that may be compared: they see the same tiles."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if not allowed.scores.get(run.path, ""):
            for name, value in metrics.baselines(run).items():
                found.setdefault(name, []).append(value)
    return {name: plain_statistics.fmean(values) for name, values in found.items()}
