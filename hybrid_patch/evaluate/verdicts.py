"""Which baselines an embedding beats: those that its mIoU is above, by all of the bootstrap interval over groups."""

from collections.abc import Iterable, Mapping
from typing import Any

Verdicts = dict[str, bool]
"""By baseline, whether it is beaten."""
NOT = "does not beat"


def verdicts(above: Mapping[str, Any], classifier: str) -> Verdicts:
    """Of an evaluation's `above`; none for a classifier that it lacks."""
    return {
        kind: by_classifier[classifier]["all"]["low"] > 0
        for kind, by_classifier in above.items()
        if "all" in by_classifier.get(classifier, ())
    }


def of_all(each: Iterable[Verdicts]) -> Verdicts:
    """The verdicts on several runs: beaten is what all of them beat."""
    together: Verdicts = {}
    for of_run in each:
        together |= {kind: beaten and together.get(kind, True) for kind, beaten in of_run.items()}
    return together


def in_words(of: Verdicts) -> str:
    """`beats raw, random64 · not surroundings`, `does not beat raw`; empty without a verdict."""
    beaten, others = (", ".join(kind for kind, x in of.items() if x == wanted) for wanted in (True, False))
    if not beaten:
        return f"{NOT} {others}" if others else ""
    return f"beats {beaten} · not {others}" if others else f"beats {beaten}"
