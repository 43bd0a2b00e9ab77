"""The trials of a search: suggested by Optuna, and recorded in its journal beside the sweep."""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter

from hybrid_patch.config.recipe import difference
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError
from hybrid_patch.runs.records import DamagedFileError, read_file
from launch.search_options import Search, Values

JOURNAL = "journal.log"
MEMBER, REASON = "member", "reason"
"""Attributes of a trial: its run id, and why it has failed."""
LIMITS = {"trials", "parallel"}
"""What may differ when a search goes on."""
SETTINGS = TypeAdapter(Search)
ANEW = "remove that folder to search anew (runs that are done are not repeated), or give another sweep_name"

optuna.logging.set_verbosity(optuna.logging.WARNING)


def pruner_of(search: Search, config: Config) -> optuna.pruners.BasePruner:
    """The pruner; `config` is a trial's. Raises InputError if there are no scores to prune by."""
    every, steps = config.evaluation.every, config.trainer.steps
    if search.pruner == "none":
        return optuna.pruners.NopPruner()
    if not 0 < every < steps:
        line = f"search.pruner={search.pruner}: with evaluation.every={every} there are no scores within {steps} steps"
        raise InputError(f"{line}; try evaluation.every={max(steps // 4, 1)}, or search.pruner=none")
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=every, max_resource=steps)
    return optuna.pruners.MedianPruner(n_startup_trials=search.startup_trials)


def study_in_memory(search: Search) -> optuna.Study:
    return optuna.create_study(direction=search.direction)


@contextmanager
def journaled_study(
    folder: Path, search: Search, arguments: Sequence[str], pruner: optuna.pruners.BasePruner
) -> Iterator[optuna.Study]:
    """The study in a folder, begun or gone on with, by one process at a time.

    Raises InputError if another process is at work, or the search was begun with other settings, and DamagedFileError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOURNAL
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(f"{folder}: another process searches here; wait until it has ended") from None
        content = read_file(path) or b""
        if torn := len(content) - content.rfind(b"\n") - 1:  # by a process that was killed
            os.truncate(path, len(content) - torn)
        try:
            # Nobody else writes: a lock of Optuna's that is still there is that of a killed process.
            backend = JournalFileBackend(str(path), JournalFileOpenLock(str(path), grace_period=3))
            study = optuna.create_study(
                study_name="search",
                storage=optuna.storages.JournalStorage(backend),
                pruner=pruner,
                direction=search.direction,
                load_if_exists=True,
            )
        except Exception as error:
            raise DamagedFileError(path, error, ANEW) from error
        settings = {**SETTINGS.dump_python(search, mode="json", exclude=LIMITS), "arguments": list(arguments)}
        settings = json.loads(json.dumps(settings))
        if changed := difference(study.user_attrs.get("settings", settings), settings):
            raise InputError(f"{folder}: begun with other settings ({'; '.join(changed[:3])}); {ANEW}")
        study.set_user_attr("settings", settings)
        yield study


class Trials:
    """The trials of a study, beside `given` values of keys that are not varied."""

    def __init__(self, search: Search, given: Mapping[str, Any], study: optuna.Study) -> None:
        self._search, self._given, self._study = search, given, study
        self._points = search.grid(given) if search.sampler == "grid" else None
        self.limit = search.trials if self._points is None else min(search.trials, len(self._points))

    def asked(self) -> list[FrozenTrial]:
        """All of them, in order."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state != TrialState.WAITING]

    def running(self) -> list[optuna.Trial]:
        """Those that Optuna has not been told the end of, also of earlier processes."""
        return [
            optuna.Trial(self._study, trial._trial_id) for trial in self.asked() if trial.state == TrialState.RUNNING
        ]

    @property
    def enough(self) -> bool:
        return len(self.asked()) >= self.limit

    def ask(self) -> optuna.Trial | None:
        """One more; None if there are enough."""
        if self.enough:
            return None
        if self._points is not None:
            self._study.enqueue_trial(self._points[len(self.asked())], skip_if_exists=True)
        return self._study.ask()

    def values(self, trial: optuna.Trial) -> Values:
        """The values of a trial by key.

        Its draws depend on the seed, its number and the scores before it alone, so that a search that goes on in
        another process draws as one process would.
        """
        search = self._search
        seed = int(np.random.SeedSequence([search.seed, trial.number]).generate_state(1)[0])
        self._study.sampler = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials)
            if search.sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        values: Values = {}
        for key, parameter in search.space.items():
            if parameter.applies({**self._given, **values}):
                values[key] = parameter.suggest(trial, key)
        return values

    def first(self, count: int) -> Iterator[Values]:
        """The values of up to `count` trials that no score decides. Only for a study without trials."""
        drawn = self._search.startup_trials if self._search.sampler == "tpe" else count
        for _ in range(min(count, self.limit, max(drawn, 1))):
            if trial := self.ask():
                yield self.values(trial)

    def report(self, trial: optuna.Trial, step: int, score: float) -> bool:
        """Report an intermediate score, unless it or a later one was; whether the trial goes on."""
        last = max(self.asked()[trial.number].intermediate_values, default=0)
        if step > last:
            trial.report(score, step)
        return step < last or not trial.should_prune()

    def tell(self, trial: optuna.Trial, state: str, score: float | None = None, reason: str = "") -> None:
        """End a trial as COMPLETE, PRUNED or FAIL."""
        if reason:
            trial.set_user_attr(REASON, reason)
        self._study.tell(trial.number, score, TrialState[state])

    def twin(self, trial: optuna.Trial) -> FrozenTrial | None:
        """The first trial that is the same run, if that is another one."""
        member = trial.user_attrs.get(MEMBER)
        same = (each for each in self.asked()[: trial.number] if each.user_attrs.get(MEMBER) == member)
        return None if member is None else next(same, None)

    def repeat(self, trial: optuna.Trial, twin: FrozenTrial) -> None:
        """End a trial as another has ended."""
        for step, score in twin.intermediate_values.items():
            trial.report(score, step)
        last = twin.value if twin.state == TrialState.COMPLETE else None
        self.tell(trial, twin.state.name, last, f"the same run as trial {twin.number + 1}")

    def best(self) -> list[FrozenTrial]:
        """Those with a score, the best first."""
        scored = [
            (trial.value, trial)
            for trial in self.asked()
            if trial.state == TrialState.COMPLETE and trial.value is not None
        ]
        ordered = sorted(scored, key=lambda pair: pair[0], reverse=self._search.direction == "maximize")
        return [trial for _, trial in ordered]

    def counts(self) -> str:
        """How many trials are in each state: `20 complete, 6 pruned`."""
        numbers = Counter(trial.state.name.lower() for trial in self.asked())
        return ", ".join(f"{number} {state}" for state, number in numbers.items())
