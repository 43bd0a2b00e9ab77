"""What differs between runs besides what was swept over, and what may not be compared because of it."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_patch.config.fields import without_aside
from hybrid_patch.config.recipe import leaves
from hybrid_patch.config.schema import Config
from hybrid_patch.report.grouping import NONE, is_swept
from hybrid_patch.report.load_runs import Run

UNSAID = ("seed", "run_dir", "sweep_name", "logger", "evaluation", "data.root")
"""Of a config, what is of no consequence here: names and places. The data are told by their fingerprint, the evaluation
by what `evaluation.json` says that it was."""
WORTH = ("data", "trainer.steps", "evaluation")
OF_TRAINING = ("data.tile", "data.on_error", "data.max_skipped")
"""Scores are not compared between runs that differ in one of the first, unless it is one of the second."""
COST = (
    *("data.tile", "data.timesteps", "data.modalities", "data.fingerprint", "trainer.batch_size", "masking.views"),
    *("runtime.device", "runtime.processes", "runtime.precision", "runtime.threads", "machine.cpus"),
)
"""Step times and memory are not."""

Facts = dict[str, str]
"""By key, as JSON: the config's leaves, and `code.…`, `machine.…` and `evaluation.…` beside them."""


class Difference(NamedTuple):
    """A key that has several values.

    Attributes:
        key: of the config, or of what is beside it.
        values: the runs that have each, by value.
        effect: what is not compared because of it: `scores`, `costs`, `scores and costs`; or nothing: `flagged`.
    """

    key: str
    values: dict[str, list[str]]
    effect: str


def facts(run: Run) -> Facts:
    """All that is known of how a run was made and looked at."""
    found: dict[str, Any] = {**without_aside(Config, run.config), **run.recipe}
    if isinstance(run.config.get("runtime"), Mapping):
        found["runtime"] = run.config["runtime"]  # whole: the recipe has only a part
    identity = run.identity
    if identity:
        found["code"] = {
            "commit": identity.get("commit"),
            "uncommitted changes": identity.get("dirty"),
            "python": identity.get("python"),
            "versions": identity.get("versions", {}),
        }
        found["machine"] = identity.get("machine", {})
    facts = {key: value for key, value in leaves(found) if key and not is_swept(key, UNSAID)}
    if run.evaluation:
        facts |= _evaluation(run)
        machine = run.evaluation.get("machine", identity)
        commit = machine.get("commit") if isinstance(machine, Mapping) else None
        if commit is not None:
            facts["code.evaluated at commit"] = json.dumps(commit)
    return facts


def _evaluation(run: Run) -> Facts:
    evaluation = run.evaluation
    settings = evaluation.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    data, step = evaluation.get("data"), evaluation.get("step")
    own = (run.recipe.get("data") or {}).get("fingerprint") if isinstance(run.recipe.get("data"), Mapping) else None
    found = {
        "data": data.get("fingerprint") if isinstance(data, Mapping) else own,
        # Where the number of steps is swept over, all that matters is whether it was the last one.
        "step": "the last" if step is not None and step == _steps(run) else step,
        # How many pictures there are, how often it was looked, and what was scored beside, changes no score.
        **{key: value for key, value in settings.items() if key not in ("every", "pictures", "baselines")},
        "tiles scored": evaluation.get("tiles"),
    }
    return {
        f"evaluation.{key}": json.dumps(value) for key, value in found.items() if key != "data" or value is not None
    }


def _steps(run: Run) -> Any:
    """How many steps the run was to take."""
    trainer = run.recipe.get("trainer", run.config.get("trainer"))
    return trainer.get("steps") if isinstance(trainer, Mapping) else None


def differences(runs: Sequence[Run], axes: Sequence[str]) -> list[Difference]:
    """Keys with several values that are no axis; those that keep something from being compared first."""
    known = [(run, facts(run)) for run in runs]
    known = [(run, found) for run, found in known if found]
    found = []
    for key in dict.fromkeys(key for _, one in known for key in one):
        if is_swept(key, axes):
            continue
        of_evaluation = key.startswith(("evaluation.", "code.evaluated"))
        values: dict[str, list[str]] = {}
        for run, one in known:
            # What cannot be read of a run, and the settings of an evaluation that it does not have, differ in nothing.
            if key in one or not (of_evaluation or unreadable(run)):
                values.setdefault(one.get(key, NONE), []).append(run.path.name)
        if len(values) > 1:
            found.append(Difference(key, values, effect(key)))
    return sorted(found, key=lambda one: one.effect == "flagged")


def unreadable(run: Run) -> bool:
    """Whether a part of what a run is cannot be read."""
    return not (run.config and run.identity)


def effect(key: str) -> str:
    """What is not compared where a key differs."""
    words = [word for word, told in (("scores", _of_worth), ("costs", _of_cost)) if told(key)]
    return " and ".join(words) or "flagged"


def _of_worth(key: str) -> bool:
    return is_swept(key, WORTH) and not is_swept(key, OF_TRAINING)


def _of_cost(key: str) -> bool:
    return is_swept(key, COST)


class Comparable(NamedTuple):
    """Which runs may be compared in what, by directory, and of the others why not."""

    scores: dict[Path, str]
    costs: dict[Path, str]


def comparable(runs: Sequence[Run], axes: Sequence[str]) -> Comparable:
    """Of each run, why its scores and its costs are not compared with those of most; empty if they are."""
    known = {run.path: facts(run) for run in runs}
    evaluated = [run for run in runs if run.evaluation]
    timed = [run for run in runs if len(run.metrics["step"])]
    return Comparable(
        _apart(
            {run.path: known[run.path] for run in evaluated}, lambda key: _of_worth(key) and not is_swept(key, axes)
        ),
        _apart({run.path: known[run.path] for run in timed}, lambda key: _of_cost(key) and not is_swept(key, axes)),
    )


def _apart(known: Mapping[Path, Facts], counts: Callable[[str], bool]) -> dict[Path, str]:
    """Why each is not like most of them in the keys that count."""
    kept = {path: {key: x for key, x in one.items() if counts(key)} for path, one in known.items()}
    if not kept:
        return {}
    classes = Counter(json.dumps(one, sort_keys=True) for one in kept.values())
    usual: Facts = json.loads(classes.most_common(1)[0][0])
    return {
        path: "; ".join(
            f"{key} is {one.get(key, NONE)}, not {usual.get(key, NONE)}"
            for key in dict.fromkeys([*usual, *one])
            if one.get(key) != usual.get(key)
        )
        for path, one in kept.items()
    }
