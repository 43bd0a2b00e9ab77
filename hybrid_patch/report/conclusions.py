"""The answer in a few sentences, no stronger than what was measured."""

from hybrid_patch.report.formatting import listed, number_of, score, verdict, with_seeds
from hybrid_patch.report.grouping import Against, ReportMember
from hybrid_patch.report.metrics import COMPARED_MEASURES, MEASURES
from hybrid_patch.report.summary import Summary

MAX_NAMES, MAX_FRONT = 4, 8  # names that a sentence lists; it gives the number of the others
MANY = 12  # verdicts: from here on a sentence says how many of them chance alone would produce


def answer(summary: Summary) -> list[str]:
    if summary.best is None:
        members = number_of(len(summary.members), "member")
        return [f"{members}, none with an evaluation that counts: run hybrid-patch evaluate run=… to compare quality."]
    best, others = summary.members[0], summary.best.against
    miou = with_seeds(best.measures["miou"], score)
    if not others:
        only = f"{best.label} is the only member with an evaluation that counts: mIoU {miou}."
        return [only, *_baseline(summary, best)]
    sentences = [f"{best.label} has the highest mean mIoU, {miou}, of {len(others) + 1} members that can be compared."]
    for word, text in (
        ("more", "It is shown to be above {}."),
        ("no difference shown", "No difference is shown between it and {}."),
        ("too few seeds", "There are too few seeds for a verdict on {}."),
    ):
        if names := [label for label, comparison in others.items() if comparison.verdict == word]:
            sentences.append(text.format(listed(names, MAX_NAMES, " and ")))
    verdicts = sum(comparison.verdict != "too few seeds" for comparison in others.values())
    if verdicts >= MANY:
        sentences.append(
            f"Each of these {verdicts} verdicts holds at 95 % by itself: about {round(verdicts / 20)} would show a "
            "difference where there is none, and the highest of many means is partly luck."
        )
    for name, against in best.against.items():
        sentences += _comparison(name, against)
    if front := [member.label for member in summary.members if member.front]:
        labels = listed(front, MAX_FRONT, " and ")
        sentences.append(f"No member is better in step time, memory and mean mIoU together than {labels}.")
    return sentences + _baseline(summary, best)


def _comparison(reference: str, against: Against) -> list[str]:
    main = {name: against.comparisons[name] for name in COMPARED_MEASURES if name in against.comparisons}
    parts = [f"{MEASURES[name].title} {verdict(each, MEASURES[name].relative)}" for name, each in main.items()]
    name = against.label if against.label == reference else f"{against.label} ({reference})"
    return [f"Against {name}: {'; '.join(parts)}."] if parts else []


def _baseline(summary: Summary, best: ReportMember) -> list[str]:
    sentences = [f"{best.label} by {name}: {words}." for name, words in best.beats.items()]
    if (raw := summary.baselines.get("raw bands", {}).get("miou")) is not None:
        warning = " The best member is not above them." if raw >= best.measures["miou"].mean else ""
        sentences.append(f"Raw bands have mIoU {score(raw)}.{warning}")
    return sentences
