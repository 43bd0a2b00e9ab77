"""What to use: the cheapest member that is not shown to be below the best."""

from typing import NamedTuple

from hybrid_patch.errors import number_of
from hybrid_patch.report.formatting import part_of, score, signed, with_seeds
from hybrid_patch.report.grouping import BEST, ReportMember
from hybrid_patch.report.statistics import Comparison
from hybrid_patch.report.summary import Summary, has_score

RULE = (
    "Recommended is, of the members whose mean mIoU is not shown to be below the highest, and is not below it by more "
    "than a quarter (both with 95 % over seeds), the one whose step takes the least time (by FLOPs, where runs shared "
    "a machine)."
)
ROOM = 0.25
"""Of the highest mean mIoU: how far below it a recommended member may be. A few seeds leave room for anything."""


class Recommendation(NamedTuple):
    """A member to use, and the one of the highest mean mIoU, which may be the same."""

    member: ReportMember
    best: ReportMember


def recommend(summary: Summary) -> Recommendation | None:
    """The recommendation; None if nothing is evaluated, or the best of several members with one seed."""
    scored = [member for member in summary.members if has_score(member)]
    if not scored or (len(scored) > 1 and scored[0].measures["miou"].n < 2):
        return None
    best, *others = scored
    equal = [each for each in others if _to_best(each, "miou", "no difference shown") and _near(each, best)]
    cheaper = [each for each in equal if _to_best(each, "step_seconds", "less")]
    ratios = [each.against[BEST].comparisons["step_seconds"].estimate.mean for each in cheaper]
    return Recommendation(cheaper[ratios.index(min(ratios))] if cheaper else best, best)


def in_words(summary: Summary, chosen: Recommendation | None) -> list[str]:
    """What to use and why, and else why nothing is recommended."""
    if summary.best is None:
        members = number_of(len(summary.members), "member")
        return [f"{members}, none with an evaluation that counts: run hybrid-patch evaluate run=… to compare quality."]
    if chosen is None:
        best = summary.members[0]
        return [
            f"No recommendation from one seed: {best.label} has the highest mIoU, "
            f"{score(best.measures['miou'].mean)}, and another seed may change that. Train seed=0,1,2 of each."
        ]
    member, best = chosen
    miou = with_seeds(member.measures["miou"], score)
    if member is best:
        reasons = [
            f"mIoU {miou}, the highest"
            if len(summary.members) > 1
            else f"mIoU {miou}; there is nothing to compare it with"
        ]
    else:
        reasons = [
            f"mIoU {miou} is not shown to be below {best.label} ({score(best.measures['miou'].mean)})",
            *_costs(member),
        ]
    if (raw := summary.baselines.get("raw bands", {}).get("miou")) is not None:
        by = member.measures["miou"].mean - raw
        shown = "NOT above" if by < 0 else "above" if member.beats_raw else "not shown above"
        reasons.append(f"{shown} raw bands ({signed(by)})")
    return [f"Use {member.label}: {'; '.join(reasons)}."]


def _costs(member: ReportMember) -> list[str]:
    """How a member's costs stand to those of the best, where a difference is shown."""
    comparisons = member.against[BEST].comparisons
    words = {"step_seconds": "step time", "peak_memory_bytes": "memory"}
    parts = []
    for name, what in words.items():
        comparison = comparisons.get(name)
        if comparison is not None and comparison.verdict in ("less", "more"):
            by_flops = " (by FLOPs)" if comparison.estimate.how == "flops" else ""
            parts.append(f"{part_of(comparison.estimate.mean)} its {what}{by_flops}")
    return [" and ".join(parts)] if parts else []


def _near(member: ReportMember, best: ReportMember) -> bool:
    low = member.against[BEST].comparisons["miou"].estimate.low
    return low is not None and low >= -ROOM * best.measures["miou"].mean


def _to_best(member: ReportMember, name: str, verdict: str) -> bool:
    comparison: Comparison | None = member.against[BEST].comparisons.get(name)
    return comparison is not None and comparison.verdict == verdict
