"""Which baselines an embedding beats: those that its mIoU is above, by all of the bootstrap interval over groups."""

from collections.abc import Iterable, Mapping
from typing import Any

Verdicts = dict[str, bool]
"""By baseline, whether it is beaten."""


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
    """`beats raw, random64 · not surroundings`; empty without a verdict."""
    beaten, others = ([kind for kind, x in of.items() if x == wanted] for wanted in (True, False))
    parts = [f"beats {', '.join(beaten)}"] if beaten else []
    return " · ".join(parts + ([f"not {', '.join(others)}"] if others else []))
