"""The answer in a few sentences, no stronger than what was measured."""

from hybrid_patch.evaluate.verdicts import NOT
from hybrid_patch.report import recommendation
from hybrid_patch.report.formatting import listed, score, verdict, with_seeds
from hybrid_patch.report.grouping import BEST, Against, ReportMember
from hybrid_patch.report.metrics import COMPARED_MEASURES, MEASURES
from hybrid_patch.report.summary import Summary, has_score

MAX_NAMES, MAX_FRONT = 4, 8  # names that a sentence lists; it gives the number of the others
MANY = 12  # verdicts: from here on a sentence says how many of them chance alone would produce


def answer(summary: Summary) -> list[str]:
    """What to use, and then what that rests on; nothing that is true of all members."""
    chosen = recommendation.recommend(summary)
    sentences = recommendation.in_words(summary, chosen)
    scored = [member for member in summary.members if has_score(member)]
    if len(scored) > 1:
        sentences += _about_best(scored[0], scored[1:])
    if chosen is not None:
        for name, against in chosen.member.against.items():
            if not (name == BEST or against.label == chosen.best.label):
                sentences += _comparison(name, against)
    fronted = [member for member in scored if member.front]
    if 0 < len(fronted) < len(scored):
        labels = listed([member.label for member in fronted], MAX_FRONT, " and ")
        sentences.append(f"No member is better in step time, memory and mean mIoU together than {labels}.")
    return sentences + _baselines(summary, scored)


def _about_best(best: ReportMember, others: list[ReportMember]) -> list[str]:
    """How the others stand to the member of the highest mean."""
    verdicts = {other.label: other.against[BEST].comparisons["miou"].verdict for other in others}
    sentences = []
    if best.measures["miou"].n > 1:
        miou = with_seeds(best.measures["miou"], score)
        sentences.append(
            f"{best.label} has the highest mean mIoU, {miou}, of {len(others) + 1} members that can be compared."
        )
    for word, text in (
        ("less", "It is shown to be above {}."),
        ("no difference shown", "No difference is shown between it and {}."),
        ("too few seeds", "There are too few seeds for a verdict on {}."),
    ):
        if names := [label for label, each in verdicts.items() if each == word]:
            sentences.append(text.format(listed(names, MAX_NAMES, " and ")))
    given = sum(each != "too few seeds" for each in verdicts.values())
    if given >= MANY:
        sentences.append(
            f"Each of these {given} verdicts holds at 95 % by itself: about {round(given / 20)} would show a "
            "difference where there is none, and the highest of many means is partly luck."
        )
    return sentences


def _comparison(reference: str, against: Against) -> list[str]:
    main = {name: against.comparisons[name] for name in COMPARED_MEASURES if name in against.comparisons}
    parts = [f"{MEASURES[name].title} {verdict(each, MEASURES[name].relative)}" for name, each in main.items()]
    name = against.label if against.label == reference else f"{against.label} ({reference})"
    return [f"Against {name}: {'; '.join(parts)}."] if parts else []


def _baselines(summary: Summary, scored: list[ReportMember]) -> list[str]:
    """Which members beat which baselines, by classifier."""
    sentences = []
    for name in dict.fromkeys(name for member in scored for name in member.beats):
        by_words: dict[str, list[str]] = {}
        for member in scored:
            if name in member.beats:
                by_words.setdefault(member.beats[name], []).append(member.label)
        each = [f"{listed(labels, MAX_NAMES, ' and ')} {words}" for words, labels in by_words.items()]
        if len(each) == 1 < len(scored):
            (words,) = by_words
            of_none = words.startswith(NOT)
            each = [f"no member beats{words.removeprefix(NOT)}" if of_none else f"every member {words}"]
        sentences.append(f"By {name}: {'; '.join(each)}.")
    if (raw := summary.baselines.get("raw bands", {}).get("miou")) is not None:
        sentences.append(f"Raw bands have mIoU {score(raw)}.")
    return sentences
