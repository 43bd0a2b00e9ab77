"""The loop of a search: trials go into the queue, their scores to Optuna, and more trials follow."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial, Trial
from rich.table import Table

from hybrid_patch.config.overrides import key_of
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import DONE, FAILED, STOPPED, InputError, number_of
from hybrid_patch.runs.directory import EVALUATED
from hybrid_patch.runs.records import DamagedFileError
from hybrid_patch.runs.stop_signal import StopRequest
from launch.cancel import cancel_members
from launch.config import Cluster
from launch.queue.choice import queue_of
from launch.search_options import Search, Value, words
from launch.search_study import MEMBER, REASON, Trials
from launch.status import POLL, MemberStatus, member_statuses
from launch.status_table import show
from launch.submit import SweepRequest, plan_memory, request_sweep, submit
from launch.sweep import Sweep, warn_once
from launch.watched import put_back_lost

SHOWN = 10
"""Trials in the table at the end."""


def composed_trial(arguments: Sequence[str], cluster: Cluster, sources: Sources) -> SweepRequest:
    """A trial as a sweep of one member. Raises InputError if it is invalid."""
    request = request_sweep(arguments, cluster, sources)
    if len(request.valid) > 1:
        raise InputError("a value with a comma is several; write it in quotes within quotes")
    queue_of(cluster).check(request.members())
    return plan_memory(request, cluster)[0] if cluster.needs_plan or cluster.device is not None else request


def merged(requests: Sequence[SweepRequest]) -> SweepRequest:
    valid = {each.member.id: each for request in requests for each in request.valid}
    return replace(requests[0], valid=list(valid.values()))


@dataclass
class SearchLoop:
    """A search at work.

    Attributes:
        arguments: those that all trials share.
        cluster_words: the arguments that the cluster is read from.
        submitted: whether this process has submitted something: then an error of the queue is one that passes.
    """

    search: Search
    arguments: Sequence[str]
    trials: Trials
    sweep: Sweep
    cluster: Cluster
    cluster_words: Sequence[str]
    sources: Sources
    submitted: bool = False

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

    def _look(self, running: Sequence[Trial], resuming: bool) -> list[Trial]:
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
            elif self._heard(trial, status) or status.active:
                continue
            elif status.state != "failed" and (resuming or self._is_lost(status)):
                todo.append(trial)
            else:
                self._tell(trial, "FAIL", reason=": ".join(filter(None, [status.state, status.cause, status.reason])))
        return todo

    def _heard(self, trial: Trial, status: MemberStatus) -> bool:
        """Report the scores of a trial's evaluations; whether that has ended it: pruned, or done."""
        run, metric = self.sweep.run(status.member.id), self.search.metric
        try:
            scores, rows = run.evaluated().get("scores", {}), [row for row in run.metrics() if EVALUATED in row]
        except DamagedFileError as error:
            if status.state == "done":
                self._tell(trial, "FAIL", reason=str(error))
            return status.state == "done"
        if scores and metric not in scores:
            raise InputError(f"search.metric={metric}: {run.path} has no such score; it has: {', '.join(scores)}")
        within = {
            row["step"]: row[metric] for row in rows if row["step"] != status.steps and row.get(metric) is not None
        }
        if not all(self.trials.report(trial, step, score) for step, score in within.items()):
            cancel_members(self.sweep, [status.member])
            self._tell(trial, "PRUNED")
        elif status.state != "done":
            return False
        elif (score := rows[-1].get(metric) if rows else None) is None:
            self._tell(trial, "FAIL", reason=f"done without the score {metric}; its log says why")
        else:
            self._tell(trial, "COMPLETE", score)
        return True

    def _is_lost(self, status: MemberStatus) -> bool:
        """Whether a member's queue has lost it, and it has retries left."""
        submissions = sum(status.member.id in each.ids for each in self.sweep.submissions())
        return status.state in ("stale", "missing", "damaged") and submissions <= self.cluster.retries.lost

    def _submit(self, trials: Sequence[Trial]) -> None:
        requests = []
        for trial in trials:
            try:
                request = composed_trial(
                    [*self.arguments, *words(self.trials.values(trial))], self.cluster, self.sources
                )
            except InputError as error:
                self._tell(trial, "FAIL", reason=f"invalid: {error}")
                continue
            trial.set_user_attr(MEMBER, request.valid[0].member.id)
            if self.trials.twin(trial) is None:
                requests.append(request)
        if not requests:
            return
        try:
            submit(merged(requests), self.cluster)
            self.submitted = True
        except InputError as error:  # another process submits, or the queue does not answer: at the next look
            if not self.submitted:
                raise
            warn_once(f"{error}; trying again")

    def _tell(self, trial: Trial, state: str, score: float | None = None, reason: str = "") -> None:
        self.trials.tell(trial, state, score, reason)
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
            where = [*self.cluster_words, *(("--config-dir", str(self.sources.extra)) if self.sources.extra else ())]
            again = shlex.join([*(word for word in arguments if key_of(word) != "seed"), "seed=0,1,2", *where])
            print(f"the best with more seeds: hybrid-patch launch submit {again}")
            print(f"all trials as a page: hybrid-patch launch report {name}")
        if stop:
            trials = number_of(len(self.trials.running()), "trial")
            print(f"stopped: {trials} left in the queue (hybrid-patch launch cancel {name} ends what runs)")
            print("the same command goes on with the search")
            return STOPPED
        return DONE if best else FAILED


def _table(search: Search, trials: Sequence[FrozenTrial], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("trial", search.metric, *search.space, "id"):
        table.add_column(column, no_wrap=True)
    for trial in trials:
        values = [_shown(trial.params[key]) if key in trial.params else "" for key in search.space]
        table.add_row(str(trial.number + 1), f"{trial.value:.4f}", *values, trial.user_attrs[MEMBER])
    return table


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
