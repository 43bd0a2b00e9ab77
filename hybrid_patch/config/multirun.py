"""`-m` as a sweeper and a launcher of Hydra's: each member is a process of its own, and a bad one stops no other."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hybrid_patch.config.compose import Sources, checked, held_to_schema, in_one_line
from hybrid_patch.config.literal import unquote_path
from hybrid_patch.config.members import Member, MemberRunner, exit_code, summary
from hybrid_patch.config.recipe import run_directory
from hybrid_patch.errors import InputError

PLUGIN_MODULE = "hydra_plugins.hybrid_patch"
"""Hydra takes plugins only from classes that say they live in a module of `hydra_plugins`."""


def register() -> None:
    """Make Hydra know the two classes below by the names in conf/hydra."""
    for plugin in (Members, Processes):
        plugin.__module__ = PLUGIN_MODULE
        Plugins.instance().register(plugin)


def members(overrides: list[Override]) -> list[list[str]]:
    """The members of a sweep, each as the arguments of its own command line (paths literally, as a person types)."""
    batch = BasicSweeper.split_arguments(overrides, None)[0]
    return [_arguments(member) for member in batch]


def _arguments(overrides: Sequence[str]) -> list[str]:
    return [unquote_path(override) for override in OverridesParser.create().parse_overrides(list(overrides))]


class Members(BasicSweeper):
    """Hydra's basic sweeper, but members that do not compose are left to the launcher to report."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Refuse nothing: one bad member must not stop the others."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all members; then print a line for each and exit with the sweep's code."""
        returns = super().sweep(arguments)
        outcomes = [job.return_value for batch in returns for job in batch]
        if not isinstance(self.launcher, Processes):
            return returns
        print(summary(outcomes), flush=True)
        sys.exit(exit_code(outcomes, self.launcher.runner.stopped))


class Processes(Launcher):
    """Runs members one after the other, each as a process of its own: its memory is freed, and its death is survived.

    Args:
        command: the command that runs a member, to which its overrides are added.
    """

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__()
        self.runner = MemberRunner(list(command))
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over before a sweep."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of members; each result holds an `Outcome`."""
        batch = [self._member(list(overrides)) for overrides in job_overrides]
        returns = []
        for outcome in self.runner.run(batch):
            done = JobReturn(overrides=outcome.member.arguments, status=JobStatus.COMPLETED)
            done.return_value = outcome
            returns.append(done)
        return returns

    def _member(self, overrides: list[str]) -> Member:
        assert self.hydra_context is not None
        assert self.config is not None
        arguments = _arguments(overrides)
        try:
            with in_one_line(overrides):
                composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            config = checked(held_to_schema(composed, Sources()))
            return Member(arguments, directory=run_directory(config))
        except (InputError, OSError) as error:
            return Member(arguments, error=str(error))
