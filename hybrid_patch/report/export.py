"""The members as CSV, and as a Markdown table to paste."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from hybrid_patch.report import formatting, metrics

MEASURES = (*metrics.SCORES, *metrics.COSTS)


def as_csv(summary: Mapping[str, Any]) -> str:
    """A row per member: every mean and comparison with its interval and number of seeds."""
    rows = [_flat(row, summary["axes"]["columns"]) for row in summary["members"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _flat(row: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "member": row["label"],
        **{name: row["values"].get(name, "") for name in columns},
        "kind": row["kind"],
        "state": row["state"],
        "runs": len(row["runs"]),
        "front": row["front"],
        **{f"{what}_not_compared": why for what, why in row["apart"].items()},
    }
    for name in MEASURES:
        one = row["measures"].get(name)
        if one:
            found |= {f"{name}{'' if key == 'mean' else f'_{key}'}": one[key] for key in ("mean", "low", "high", "n")}
    for reference, against in row["against"].items():
        for name in MEASURES:
            if name in against:
                kind = "ratio" if name in metrics.COSTS else "difference"
                start, one = f"{name}_{kind}_to_{reference}", against[name]
                found[start] = one["estimate"]["mean"]
                found |= {f"{start}_{key}": one["estimate"][key] for key in ("low", "high", "n")}
                found |= {f"{start}_paired": one["paired"], f"{start}_verdict": one["verdict"]}
    found |= {f"planned_{name}": value for name, value in row["planned"].items()}
    return found


def as_markdown(summary: Mapping[str, Any], answer: list[str]) -> str:
    """The answer and a table of the main numbers."""
    references = list(dict.fromkeys(name for row in summary["members"] for name in row["against"]))
    head = ["member", "state", "mIoU", "step time", "peak memory"]
    for reference in references:
        head += [f"mIoU − {reference}", f"step time / {reference}", f"memory / {reference}"]
    lines = [*(f"- {_cell(sentence)}" for sentence in answer), ""]
    lines += [_line(head), _line(["---"] * len(head))]
    for row in summary["members"]:
        cells = [f"**{_cell(row['label'])}**" if row["front"] else _cell(row["label"]), row["state"]]
        for name in ("miou", "step_seconds", "peak_memory_bytes"):
            one = row["measures"].get(name)
            cells.append(formatting.with_seeds(one, formatting.SHOWN[name]) if one else formatting.NOTHING)
        for reference in references:
            against = row["against"].get(reference, {})
            for name in ("miou", "step_seconds", "peak_memory_bytes"):
                shown = formatting.times if name in metrics.COSTS else formatting.signed
                cells.append(formatting.verdict(against[name], shown) if name in against else formatting.NOTHING)
        lines.append(_line(cells))
    lines += [
        "",
        "Bold: on the Pareto front of step time, peak memory and mIoU, by means. In brackets: the 95 % interval over "
        "seeds.",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(words: str) -> str:
    """Names come from files: no cell ends early, no tag is one."""
    plain = " ".join(words.split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
