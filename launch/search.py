"""`search`: Optuna suggests trials, each a member of one sweep, and is told their scores, until there are enough."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from rich.table import Table

from hybrid_patch.config.options import Option, Overrides
from hybrid_patch.config.overrides import hydra_overrides, key_of, parse
from hybrid_patch.config.sources import Sources, chosen_sources
from hybrid_patch.config.sweep import sweep_members, with_sweep_written_out
from hybrid_patch.errors import DONE, InputError, number_of, require_extra
from hybrid_patch.runs.stop_signal import stop_requests
from launch.commands import ClusterWords, ConfigDir
from launch.config import read_cluster
from launch.queue.choice import queue_of
from launch.search_options import Search, read_search, words
from launch.status import member_statuses
from launch.status_table import overview, show
from launch.submit import SweepRequest

PREVIEWED = 5
"""Trials that are composed before a search begins."""


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
            required="+search=NAME",
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
    from launch.search_loop import SearchLoop, composed_trial, merged
    from launch.search_study import Trials, journaled_study, pruner_of, study_in_memory

    sources = chosen_sources(config_dir=options.config_dir)
    cluster = read_cluster(options.cluster, sources.extra)
    search, arguments = _beside(read_search(options.search, sources.extra), options.overrides, sources)
    given = {key_of(word): parse(word).value() for word in hydra_overrides(arguments, sources)}
    preview, errors = Trials(search, given, study_in_memory(search)), []
    requests: list[SweepRequest] = []
    for values in preview.first(PREVIEWED):
        try:
            requests.append(composed_trial([*arguments, *words(values)], cluster, sources))
        except InputError as error:
            errors.append(f"{' '.join(words(values))}: {error}")
    if not requests:
        raise InputError(f"search={search.name}: no valid trial among the first {len(errors)}:", *errors)
    request, config = merged(requests), requests[0].valid[0].config
    if config.evaluation.tiles == 0:
        raise InputError("evaluation.tiles=0: without an evaluation there is no score; try evaluation=default")
    if config.evaluation.knn_pixels == 0 and search.metric.startswith("knn_"):
        raise InputError(f"search.metric={search.metric}: evaluation.knn_pixels=0 leaves it out; try probe_miou")
    pruner = pruner_of(search, config)
    if options.dry_run:
        before = member_statuses(request.sweep, request.members(), patient=True)
        show(_space(search), overview(request.sweep.name, before, brief=True), *(f"invalid: {line}" for line in errors))
        print(f"dry_run: these are the first of {number_of(preview.limit, 'trial')}")
        return DONE
    queue_of(cluster).require()
    with journaled_study(request.sweep.search, search, arguments, pruner) as study, stop_requests() as stop:
        trials = Trials(search, given, study)
        loop = SearchLoop(search, arguments, trials, request.sweep, cluster, options.cluster, sources)
        loop.until_enough(stop)
        return loop.conclude(stop)


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


def _space(search: Search) -> Table:
    table = Table(title=f"search={search.name}: {search.direction} {search.metric}", title_justify="left")
    for column in ("key", "values", "when"):
        table.add_column(column)
    for key, parameter in search.space.items():
        conditions = [f"{name}={','.join(map(str, allowed))}" for name, allowed in parameter.when.items()]
        table.add_row(key, str(parameter), " ".join(conditions))
    return table
