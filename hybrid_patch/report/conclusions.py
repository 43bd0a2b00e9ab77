"""The answer in a few sentences, no stronger than what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_patch.report.formatting import score, signed, times, verdict, with_seeds

FEW = 4
"""Names that a sentence lists; of more it says how many more."""
MANY = 12
"""Verdicts from which on it is said what many comparisons are worth."""


def answer(summary: Mapping[str, Any]) -> list[str]:
    """Sentences about a summary (`hybrid_patch.report.summary`)."""
    rows: Sequence[Mapping[str, Any]] = summary["members"]
    by_label = {row["label"]: row for row in rows}
    best = summary["best"]
    if best is None:
        return [
            f"{len(rows)} member{'' if len(rows) == 1 else 's'}, none with an evaluation that counts: there is cost, "
            "but no worth. python -m hybrid_patch.evaluate run=… writes one."
        ]
    top = by_label[best["label"]]
    scored = 1 + len(best["against"])
    first = f"{top['label']} has the highest mean mIoU, {with_seeds(top['measures']['miou'], score)}"
    if scored == 1:
        return [
            f"{top['label']} is the only member with an evaluation that counts: mIoU "
            f"{with_seeds(top['measures']['miou'], score)}. There is nothing to compare it with.",
            *_raw(summary, top),
        ]
    sentences = [f"{first}, of {scored} members that can be compared."]
    verdicts = {label: one["verdict"] for label, one in best["against"].items()}
    for word, text in (
        ("more", "It is shown to be above {}."),
        ("no difference shown", "No difference is shown between it and {}."),
        ("too few seeds", "There are too few seeds for a verdict on {}."),
    ):
        names = [label for label, found in verdicts.items() if found == word]
        if names:
            sentences.append(text.format(_list(names)))
    judged = sum(found != "too few seeds" for found in verdicts.values())
    if judged >= MANY:
        sentences.append(
            f"Each of these {judged} verdicts is at 95 % by itself: about {round(judged / 20)} would show a "
            "difference where there is none, and the highest of many means is in part luck."
        )
    for reference, against in top["against"].items():
        sentences += _against(reference, against)
    front = [row["label"] for row in rows if row["front"]]
    if front:
        sentences.append(
            f"Nothing measured is better in step time, memory and mean mIoU together than {_list(front, 8)}."
        )
    return sentences + _raw(summary, top)


def _against(reference: str, against: Mapping[str, Any]) -> list[str]:
    parts = []
    if "miou" in against:
        parts.append(f"mIoU {verdict(against['miou'], signed)}")
    if "step_seconds" in against:
        parts.append(f"step time {verdict(against['step_seconds'], times)}")
    if "peak_memory_bytes" in against:
        parts.append(f"peak memory {verdict(against['peak_memory_bytes'], times)}")
    label = against["label"]
    name = label if label == reference else f"{label} ({reference})"
    return [f"Against {name}: {'; '.join(parts)}."] if parts else []


def _raw(summary: Mapping[str, Any], top: Mapping[str, Any]) -> list[str]:
    raw = summary["baselines"].get("raw bands")
    if raw is None:
        return []
    under = " The best member is not above them." if raw >= top["measures"]["miou"]["mean"] else ""
    return [f"Raw bands have mIoU {score(raw)}.{under}"]


def _list(names: Sequence[str], most: int = FEW) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
