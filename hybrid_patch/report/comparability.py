"""What differs between runs besides what was swept over, and which runs may not be compared because of it."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_patch.config.fields import without_aside
from hybrid_patch.config.recipe import leaves
from hybrid_patch.config.schema import Config
from hybrid_patch.report.grouping import NONE, is_swept
from hybrid_patch.report.load_runs import Run, nested

IGNORED = ("seed", "run_dir", "sweep_name", "logger", "evaluation", "data.root")
"""Config keys without consequence: names and paths. Data are identified by their fingerprint, an evaluation by the
settings in `evaluation.json`."""
SCORE_KEYS = ("data", "trainer.steps", "evaluation")
TRAINING_DATA_KEYS = ("data.tile", "data.on_error", "data.max_skipped")
"""Scores are not compared between runs that differ in one of `SCORE_KEYS`, unless it is one of `TRAINING_DATA_KEYS`."""
COST_KEYS = (
    *("data.tile", "data.timesteps", "data.modalities", "data.fingerprint", "trainer.batch_size", "masking.views"),
    *("runtime.device", "runtime.processes", "runtime.precision", "runtime.threads", "machine.cpus"),
)
"""Step times and memory are not compared between runs that differ in one of these."""

Facts = dict[str, str]
"""By key, as JSON: the config's leaves, and `code.…`, `machine.…` and `evaluation.…` beside them."""


@dataclass(frozen=True)
class Difference:
    """A key that has several values.

    Attributes:
        key: of the config, or of the facts beside it.
        values: the names of the runs that have each value.
        effect: what is not compared because of it: `scores`, `costs`, `scores and costs`; or `flagged`: nothing.
    """

    key: str
    values: dict[str, list[str]]
    effect: str


def facts(run: Run) -> Facts:
    """How a run was trained and evaluated, as far as its files tell."""
    plain: dict[str, Any] = {**without_aside(Config, run.config), **run.recipe}
    if isinstance(run.config.get("runtime"), Mapping):
        plain["runtime"] = run.config["runtime"]  # all of it: the recipe has only a part
    identity = run.identity
    if identity:
        plain["code"] = {
            "commit": identity.get("commit"),
            "uncommitted changes": identity.get("dirty"),
            "python": identity.get("python"),
            "versions": identity.get("versions", {}),
        }
        plain["machine"] = identity.get("machine", {})
    facts = {key: value for key, value in leaves(plain) if key and not is_swept(key, IGNORED)}
    if run.evaluation:
        facts |= _evaluation_facts(run)
        commit = nested(run.evaluation.get("machine", identity), "commit")
        if commit is not None:
            facts["code.evaluated at commit"] = json.dumps(commit)
    return facts


def _evaluation_facts(run: Run) -> Facts:
    evaluation = run.evaluation
    settings, data, step = (evaluation.get(key) for key in ("settings", "data", "step"))
    trainer = run.recipe.get("trainer", run.config.get("trainer"))
    fingerprint = nested(data if isinstance(data, Mapping) else run.recipe.get("data"), "fingerprint")
    # The number of pictures and baselines, and how often a run was evaluated, change no score.
    settings = settings if isinstance(settings, Mapping) else {}
    values = {key: value for key, value in settings.items() if key not in ("every", "pictures", "baselines")}
    # Where the number of steps is swept over, all that matters is whether the last checkpoint was evaluated.
    values["step"] = "the last" if step is not None and step == nested(trainer, "steps") else step
    values["tiles scored"] = evaluation.get("tiles")
    if fingerprint is not None:
        values["data"] = fingerprint
    return {f"evaluation.{key}": json.dumps(value) for key, value in values.items()}


def differences(runs: Sequence[Run], axes: Sequence[str]) -> list[Difference]:
    """Keys with several values that are not swept over; those that prevent a comparison first."""
    known_facts = [(run, run_facts) for run in runs if (run_facts := facts(run))]
    differing = []
    for key in dict.fromkeys(key for _, run_facts in known_facts for key in run_facts):
        if is_swept(key, axes):
            continue
        of_evaluation = key.startswith(("evaluation.", "code.evaluated"))
        values: dict[str, list[str]] = {}
        for run, run_facts in known_facts:
            # Files that cannot be read, and a missing evaluation, are no differences.
            readable = run.config and run.identity
            if key in run_facts or (readable and not of_evaluation):
                values.setdefault(run_facts.get(key, NONE), []).append(run.path.name)
        if len(values) > 1:
            differing.append(Difference(key, values, effect(key)))
    return sorted(differing, key=lambda each: each.effect == "flagged")


def effect(key: str) -> str:
    """What is not compared where a key differs."""
    kinds = [kind for kind, affects in (("scores", _affects_scores), ("costs", _affects_costs)) if affects(key)]
    return " and ".join(kinds) or "flagged"


def _affects_scores(key: str) -> bool:
    return is_swept(key, SCORE_KEYS) and not is_swept(key, TRAINING_DATA_KEYS)


def _affects_costs(key: str) -> bool:
    return is_swept(key, COST_KEYS)


class Exclusions(NamedTuple):
    """Why the scores and the costs of runs, by directory, are not compared; empty where they are."""

    scores: dict[Path, str]
    costs: dict[Path, str]


def exclusions(runs: Sequence[Run], axes: Sequence[str]) -> Exclusions:
    """Which runs are not comparable with most others, and why."""

    all_facts = {run.path: facts(run) for run in runs}

    def why(runs: Sequence[Run], affects: Callable[[str], bool]) -> dict[Path, str]:
        relevant = {
            run.path: {key: x for key, x in all_facts[run.path].items() if affects(key) and not is_swept(key, axes)}
            for run in runs
        }
        return _deviations(relevant)

    return Exclusions(
        why([run for run in runs if run.evaluation], _affects_scores),
        why([run for run in runs if len(run.metrics["step"])], _affects_costs),
    )


def _deviations(facts_by_run: Mapping[Path, Facts]) -> dict[Path, str]:
    """How each run deviates from the facts that most share."""
    if not facts_by_run:
        return {}
    counts = Counter(json.dumps(run_facts, sort_keys=True) for run_facts in facts_by_run.values())
    common: Facts = json.loads(counts.most_common(1)[0][0])
    return {
        path: "; ".join(
            f"{key} is {run_facts.get(key, NONE)}, not {common.get(key, NONE)}"
            for key in dict.fromkeys([*common, *run_facts])
            if run_facts.get(key) != common.get(key)
        )
        for path, run_facts in facts_by_run.items()
    }
