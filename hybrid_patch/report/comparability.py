"""What differs between runs besides what was swept over, and which runs may not be compared because of it."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_patch.config.fields import without_aside
from hybrid_patch.config.recipe import leaves
from hybrid_patch.config.schema import Config
from hybrid_patch.report.grouping import NONE, is_swept
from hybrid_patch.report.load_runs import Run, nested

IGNORED = ("seed", "run_dir", "sweep_name", "logger", "evaluation", "data.root")
"""Names, paths, and what is known otherwise: data by their fingerprint, an evaluation by `evaluation.json`."""
SCORE_KEYS = ("data", "trainer.steps", "evaluation")
TRAINING_DATA_KEYS = ("data.tile", "data.on_error", "data.max_skipped")
"""Scores are not compared between runs that differ in one of `SCORE_KEYS`, unless it is one of `TRAINING_DATA_KEYS`."""
COST_KEYS = (
    *("data.tile", "data.timesteps", "data.modalities", "data.fingerprint", "trainer.batch_size", "masking.views"),
    *("runtime.device", "runtime.processes", "runtime.precision", "runtime.threads", "machine.cpus"),
)
"""Step times and memory are not compared between runs that differ in one of these."""
DERIVED = {"patch": "curriculum.stages"}
"""What a config has of a swept group a second time."""

Facts = dict[str, str]
"""JSON by key: the config's leaves, `code.…`, `machine.…` and `evaluation.…`."""


@dataclass(frozen=True)
class Difference:
    """A key of the facts with several values, and the names of the runs with each. `effect` says what is not compared
    because of it: `scores`, `costs` or `scores and costs`; `flagged`: nothing."""

    key: str
    values: dict[str, list[str]]
    effect: str


def compare_runs(runs: Sequence[Run], swept: Sequence[str]) -> tuple[list[Difference], dict[str, dict[Path, str]]]:
    """What differs between runs but was not swept over, what prevents a comparison first; and by `scores` and `costs`
    how each run deviates from most: an empty text where it may be compared."""
    swept = [*swept, *(DERIVED[group] for group in DERIVED if any(is_swept(axis, [group]) for axis in swept))]
    facts = {run.path: {key: x for key, x in _facts(run).items() if not is_swept(key, swept)} for run in runs}
    evaluated = [run.path for run in runs if run.evaluation]
    begun = [run.path for run in runs if len(run.metrics["step"])]
    excluded = {kind: _deviations(facts, paths, kind) for kind, paths in (("scores", evaluated), ("costs", begun))}
    return _differences([(run, facts[run.path]) for run in runs if facts[run.path]]), excluded


def sharing_a_machine(runs: Sequence[Run]) -> set[Path]:
    """The runs that ran on the same cores at the same time as another, so that their step times say little."""
    spans: dict[str, list[tuple[float, float, Path]]] = defaultdict(list)
    for run in runs:
        began = nested(run.identity, "began")
        # Each run has a GPU of its own.
        if isinstance(began, float | int) and nested(run.config, "runtime", "device") != "cuda":
            spans[str(nested(run.identity, "machine", "host"))].append((began, run.heartbeat, run.path))
    sharing: set[Path] = set()
    for of_host in spans.values():
        latest, of_latest = -math.inf, Path()
        for began, ended, path in sorted(of_host):
            if began < latest:
                sharing |= {path, of_latest}
            if ended > latest:
                latest, of_latest = ended, path
    return sharing


def _affected(key: str) -> list[str]:
    """What is not compared where a key differs."""
    scores = is_swept(key, SCORE_KEYS) and not is_swept(key, TRAINING_DATA_KEYS)
    return ["scores"] * scores + ["costs"] * is_swept(key, COST_KEYS)


def _facts(run: Run) -> Facts:
    plain: dict[str, Any] = {**without_aside(Config, run.config), **run.recipe}
    if isinstance(run.config.get("runtime"), Mapping):
        plain["runtime"] = run.config["runtime"]  # all of it: the recipe has only a part
    if identity := run.identity:
        plain["code"] = {"commit": identity.get("commit"), "uncommitted changes": identity.get("dirty")}
        plain["code"] |= {"python": identity.get("python"), "versions": identity.get("versions", {})}
        plain["machine"] = identity.get("machine", {})
    facts = {key: value for key, value in leaves(plain) if key and not is_swept(key, IGNORED)}
    return facts | _evaluation_facts(run) if run.evaluation else facts


def _evaluation_facts(run: Run) -> Facts:
    evaluation = run.evaluation
    settings, data, step = (evaluation.get(key) for key in ("settings", "data", "step"))
    settings = settings if isinstance(settings, Mapping) else {}
    of_no_score = ("every", "pictures", "baselines", "few_labels")
    facts = {f"evaluation.{key}": value for key, value in settings.items() if key not in of_no_score}
    # Where the number of steps is swept over, all that matters is whether the last checkpoint was evaluated.
    last = nested(run.recipe.get("trainer", run.config.get("trainer")), "steps")
    facts["evaluation.step"] = "the last" if step is not None and step == last else step
    facts["evaluation.tiles scored"] = evaluation.get("tiles")
    optional = {
        "evaluation.data": nested(data if isinstance(data, Mapping) else run.recipe.get("data"), "fingerprint"),
        "code.evaluated at commit": nested(evaluation.get("machine", run.identity), "commit"),
    }
    facts |= {key: value for key, value in optional.items() if value is not None}
    return {key: json.dumps(value) for key, value in facts.items()}


def _differences(known_facts: Sequence[tuple[Run, Facts]]) -> list[Difference]:
    differing = []
    for key in dict.fromkeys(key for _, facts in known_facts for key in facts):
        of_evaluation = key.startswith(("evaluation.", "code.evaluated"))
        values: dict[str, list[str]] = {}
        for run, facts in known_facts:
            # Files that cannot be read, and a missing evaluation, are no differences.
            if key in facts or (run.config and run.identity and not of_evaluation):
                values.setdefault(facts.get(key, NONE), []).append(run.path.name)
        if len(values) > 1:
            differing.append(Difference(key, values, " and ".join(_affected(key)) or "flagged"))
    return sorted(differing, key=lambda each: each.effect == "flagged")


def _deviations(all_facts: Mapping[Path, Facts], paths: Sequence[Path], kind: str) -> dict[Path, str]:
    if not paths:
        return {}
    relevant = {path: {key: x for key, x in all_facts[path].items() if kind in _affected(key)} for path in paths}
    counts = Counter(json.dumps(facts, sort_keys=True) for facts in relevant.values())
    common: Facts = json.loads(counts.most_common(1)[0][0])
    return {
        path: "; ".join(
            f"{key} is {facts.get(key, NONE)}, not {common.get(key, NONE)}"
            for key in dict.fromkeys([*common, *facts])
            if facts.get(key) != common.get(key)
        )
        for path, facts in relevant.items()
    }
