"""`search`: Optuna suggests trials, each a member of one sweep, and is told their scores, until there are enough."""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from rich.table import Table

from hybrid_patch.config.options import Option, Overrides
from hybrid_patch.config.overrides import hydra_overrides, key_of, parse
from hybrid_patch.config.sources import Sources, chosen_sources
from hybrid_patch.config.sweep import sweep_members, with_sweep_written_out
from hybrid_patch.errors import DONE, FAILED, STOPPED, InputError, require_extra
from hybrid_patch.runs.stop_signal import StopRequest, stop_requests
from launch.cancel import cancel_members
from launch.commands import ClusterWords, ConfigDir
from launch.config import Cluster, read_cluster
from launch.queue.choice import queue_of
from launch.search_options import Search, Value, Values, read_search
from launch.status import POLL, MemberStatus, member_statuses
from launch.status_table import overview, show
from launch.submit import SweepRequest, plan_memory, request_sweep, submit
from launch.sweep import Sweep, warn_once
from launch.watched import put_back_lost

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from launch.search_study import Trials

PREVIEWED = 5
"""Trials that are composed before a search begins."""
SHOWN = 10
"""Trials in the table at its end."""
MEMBER, REASON = "member", "reason"
"""Attributes of a trial: its run id, and why it has failed."""
EVALUATED = "evaluation_seconds"
"""In the metrics of a step after which the run was evaluated."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    cluster: ClusterWords = ()
    search: Annotated[
        tuple[str, ...],
        Overrides(
            {
                "+search=NAME": "what is varied and by which score: a file of conf/search/",
                "search.KEY=VALUE": "a value of it, as search.trials=50 or search.parallel=4",
            },
            groups=("search",),
        ),
    ] = ()
    overrides: Annotated[
        tuple[str, ...],
        Overrides({"key=value": "of all trials, as in hybrid-patch train; a key that is set so is not varied"}),
    ] = ()
    config_dir: ConfigDir = None
    dry_run: Annotated[bool, Option("true", "show the space and the first trials, and stop there")] = False


def search_command(options: SearchOptions) -> int:
    """Search for the values that score best: Optuna's trials as members of a sweep, on any cluster.

    Stopped or killed, it leaves its trials in their queue, and the same command goes on. Exit code: 0 if a trial has a
    score, 75 stopped, 1 if none has.
    """
    require_extra("search", "optuna", "scipy", "matplotlib")
    from launch.search_study import Trials, journaled_study, pruner_of, study_in_memory

    sources = chosen_sources(config_dir=options.config_dir)
    cluster = read_cluster(options.cluster, sources.extra)
    search, arguments = _beside(read_search(options.search, sources.extra), options.overrides, sources)
    given = {key_of(word): parse(word).value() for word in hydra_overrides(arguments, sources)}
    preview, errors = Trials(search, given, study_in_memory(search)), []
    requests: list[SweepRequest] = []
    for values in preview.first(PREVIEWED):
        try:
            requests.append(_requested([*arguments, *words(values)], cluster, sources))
        except InputError as error:
            errors.append(f"{' '.join(words(values))}: {error}")
    if not requests:
        raise InputError(f"search={search.name}: its first {len(errors)} trials are invalid:", *errors)
    request, config = _merged(requests), requests[0].valid[0].config
    if config.evaluation.tiles == 0:
        raise InputError("evaluation.tiles=0: without an evaluation there is no score; try evaluation=default")
    pruner = pruner_of(search, config)
    if options.dry_run:
        before = member_statuses(request.sweep, request.members(), patient=True)
        show(_space(search), overview(request.sweep.name, before, brief=True), *(f"invalid: {line}" for line in errors))
        print(f"dry_run: these are the first of {preview.limit} trials")
        return DONE
    queue_of(cluster).require()
    folder = request.sweep.folder / "launch" / "search"
    with journaled_study(folder, search, arguments, pruner) as study, stop_requests() as stop:
        searching = _Searching(search, arguments, Trials(search, given, study), request.sweep, cluster, sources)
        searching.until_enough(stop)
        return searching.conclude(stop)


def _beside(search: Search, overrides: Sequence[str], sources: Sources) -> tuple[Search, list[str]]:
    """The search without the keys that overrides set, and the arguments that all of its trials share."""
    words_given = with_sweep_written_out(overrides, sources)
    keys = {key_of(word) for word in words_given}
    fixed = {key: value for key, value in search.fixed.items() if key not in keys}
    lines = sweep_members([*words(fixed), *words_given], sources)
    if len(lines) != 1:
        raise InputError(f"{' '.join(overrides)}: {len(lines)} runs, and a trial is a single one; search over that key")
    space = {key: parameter for key, parameter in search.space.items() if key not in keys}
    if not space:
        raise InputError(f"search={search.name}: the command line sets all keys of its space; leave one out")
    return replace(search, fixed=fixed, space=space), lines[0]


def words(values: Values) -> list[str]:
    """Values as arguments of a command line."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def _requested(arguments: Sequence[str], cluster: Cluster, sources: Sources) -> SweepRequest:
    """A trial as a sweep of one member. Raises InputError if it is invalid."""
    request = request_sweep(arguments, cluster, sources)
    queue_of(cluster).check(request.members())
    return plan_memory(request, cluster)[0] if cluster.needs_plan or cluster.device is not None else request


def _merged(requests: Sequence[SweepRequest]) -> SweepRequest:
    valid = {each.member.id: each for request in requests for each in request.valid}
    return replace(requests[0], valid=list(valid.values()))


@dataclass
class _Searching:
    """A search at work."""

    def __init__(
        self,
        search: Search,
        arguments: Sequence[str],
        trials: "Trials",
        sweep: Sweep,
        cluster: Cluster,
        sources: Sources,
    ) -> None:
        self.search, self.arguments, self.trials = search, arguments, trials
        self.sweep, self.cluster, self.sources = sweep, cluster, sources
        self.submitted = False

    def until_enough(self, stop: StopRequest) -> None:
        """Have `parallel` trials in the queue and hear their scores, until there are enough trials, or a signal."""
        resuming = True
        while not stop:
            before = self.trials.running()
            todo = self._look(before, resuming)
            resuming = False
            while len(self.trials.running()) < self.search.parallel and (trial := self.trials.ask()):
                todo.append(trial)
            self._submit(todo)
            after = {trial.number for trial in self.trials.running()}
            if not after and self.trials.enough:
                return
            if after == {trial.number for trial in before}:
                time.sleep(POLL)

    def _look(self, running: "Sequence[optuna.Trial]", resuming: bool) -> "list[optuna.Trial]":
        """Tell Optuna what trials have scored and how they ended. Returns those to submit, or to submit again."""
        put_back_lost(self.sweep)
        ids = {trial.user_attrs.get(MEMBER) for trial in running}
        members = [member for member in self.sweep.members().values() if member.id in ids]
        statuses = {each.member.id: each for each in member_statuses(self.sweep, members, patient=True)}
        todo = []
        for trial in running:
            status = statuses.get(trial.user_attrs.get(MEMBER, ""))
            if (twin := self.trials.twin(trial)) is not None:  # of which there is one run
                if twin.state.is_finished():
                    self.trials.repeat(trial, twin)
                    self._print(trial.number)
            elif status is None:
                todo.append(trial)
            elif status.state == "failed":
                self._tell(trial, "FAIL", reason=f"{status.cause}: {status.reason}")
            elif self._heard(trial, status) or status.active:
                continue
            elif self._goes_back(status, resuming):
                todo.append(trial)
            else:
                self._tell(trial, "FAIL", reason=f"{status.state}: {status.reason}")
        return todo

    def _heard(self, trial: "optuna.Trial", status: MemberStatus) -> bool:
        """Report the scores of a trial's evaluations; whether that has ended it: pruned, or done."""
        run, metric = self.sweep.run(status.member.id), self.search.metric
        scores = run.evaluated().get("scores", {})
        if scores and metric not in scores:
            raise InputError(f"search.metric={metric}: {run.path} has no such score; it has: {', '.join(scores)}")
        rows = [row for row in run.metrics() if EVALUATED in row]
        within = {
            row["step"]: row[metric] for row in rows if row["step"] != status.steps and row.get(metric) is not None
        }
        if not all(self.trials.report(trial, step, score) for step, score in within.items()):
            cancel_members(self.sweep, [status.member])
            self._tell(trial, "PRUNED")
            return True
        if status.state != "done":
            return False
        if (score := rows[-1].get(metric) if rows else None) is None:
            self._tell(trial, "FAIL", reason=f"done without the score {metric}; its log says why")
        else:
            self._tell(trial, "COMPLETE", score)
        return True

    def _goes_back(self, status: MemberStatus, resuming: bool) -> bool:
        """Whether a member that no queue has is submitted again: one that was lost, within the retries, or that was
        stopped before this search goes on."""
        submissions = sum(status.member.id in each.ids for each in self.sweep.submissions())
        lost = status.state in ("stale", "missing", "damaged") and submissions <= self.cluster.retries.lost
        return lost or (resuming and status.state == "stopped")

    def _submit(self, trials: "Sequence[optuna.Trial]") -> None:
        requests = []
        for trial in trials:
            try:
                request = _requested([*self.arguments, *words(self.trials.values(trial))], self.cluster, self.sources)
            except InputError as error:
                self._tell(trial, "FAIL", reason=f"invalid: {error}")
                continue
            trial.set_user_attr(MEMBER, request.valid[0].member.id)
            if self.trials.twin(trial) is None:
                requests.append(request)
        if not requests:
            return
        try:
            submit(_merged(requests), self.cluster)
            self.submitted = True
        except InputError as error:  # another process submits, or the queue does not answer: at the next look
            if not self.submitted:
                raise
            warn_once(f"{error}; trying again")

    def _tell(self, trial: "optuna.Trial", state: str, score: float | None = None, reason: str = "") -> None:
        self.trials.tell(trial, state, score, **({REASON: reason} if reason else {}))
        self._print(trial.number)

    def _print(self, number: int) -> None:
        trial = self.trials.asked()[number]
        score = "" if trial.value is None else f" {self.search.metric} {trial.value:.4f}"
        reason = f"  ({trial.user_attrs[REASON]})" if REASON in trial.user_attrs else ""
        values = " ".join(f"{key}={_shown(value)}" for key, value in trial.params.items())
        print(f"[{number + 1}/{self.trials.limit}] {trial.state.name.lower()}{score}  {values}{reason}", flush=True)

    def conclude(self, stop: StopRequest) -> int:
        """Print the best trials and what to do with them. Returns the exit code."""
        best, name = self.trials.best(), shlex.quote(self.sweep.name)
        if best:
            show(_table(self.search, best[:SHOWN], f"{self.sweep.name}: {self.trials.counts()}"))
            arguments = self.sweep.members()[best[0].user_attrs[MEMBER]].arguments
            again = shlex.join([*(word for word in arguments if key_of(word) != "seed"), "seed=0,1,2"])
            print(f"the best with more seeds: hybrid-patch launch submit {again}")
            print(f"all trials as a page: hybrid-patch launch report {name}")
        if stop:
            count = len(self.trials.running())
            print(f"stopped: {count} trials stay in their queue (hybrid-patch launch cancel {name} ends them)")
            print("the same command goes on with the search")
            return STOPPED
        return DONE if best else FAILED


def _space(search: Search) -> Table:
    table = Table(title=f"search={search.name}: {search.direction} {search.metric}", title_justify="left")
    for column in ("key", "values", "when"):
        table.add_column(column)
    for key, parameter in search.space.items():
        conditions = [f"{name}={','.join(map(str, allowed))}" for name, allowed in parameter.when.items()]
        table.add_row(key, str(parameter), " ".join(conditions))
    return table


def _table(search: Search, trials: "Sequence[FrozenTrial]", title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("trial", search.metric, *search.space, "id"):
        table.add_column(column, no_wrap=True)
    for trial in trials:
        values = [_shown(trial.params[key]) if key in trial.params else "" for key in search.space]
        table.add_row(str(trial.number + 1), f"{trial.value:.4f}", *values, trial.user_attrs[MEMBER])
    return table


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
