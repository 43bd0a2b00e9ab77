"""What a search varies and by which score: the schema of `conf/search/`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from omegaconf import OmegaConf
from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from hybrid_patch.config.compose import composed, held_to
from hybrid_patch.config.field_types import Amount, Count, Name, Seed
from hybrid_patch.config.messages import did_you_mean
from hybrid_patch.config.modality import STRICT
from hybrid_patch.config.overrides import hydra_overrides
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError

if TYPE_CHECKING:
    from optuna import Trial

Value: TypeAlias = bool | int | float | str | None
Values: TypeAlias = dict[str, Value]
METRICS = (
    *(f"{by}_{score}" for by in ("probe", "knn", "head") for score in ("miou", "mixed_miou", "accuracy")),
    *("head_rmse", "head_r2", "lattice_ratio", "window_ratio", "effective_rank", "neighbour_similarity"),
)
"""The scores of embeddings that an evaluation may have, by their names in metrics.jsonl."""


def _metric(name: str) -> str:
    name = "probe_miou" if name == "miou" else name
    if name not in METRICS:
        raise ValueError(f"no score of an evaluation; takes: {', '.join(METRICS)}{did_you_mean(name, METRICS)}")
    return name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Parameter:
    """The values that a key may have: choices, or a range with both ends, of whole numbers if both ends are."""

    choices: tuple[Value, ...] = ()
    """Values in no order."""
    low: int | float | None = None
    """The least value of a range."""
    high: int | float | None = None
    """The greatest."""
    log: bool = False
    """Whether the range is searched by orders of magnitude."""
    step: int | float | None = None
    """From each value to the next; null: 1 of whole numbers, else any value."""
    when: dict[Name, tuple[Value, ...]] = field(default_factory=dict)
    """The key is varied only where each of these keys has one of these values."""

    @model_validator(mode="after")
    def _whole(self) -> "Parameter":
        if bool(self.choices) == (self.low is not None and self.high is not None):
            raise ValueError("give choices: [a, b], or low and high")
        if self.choices and (self.low, self.high, self.log, self.step) != (None, None, False, None):
            raise ValueError("choices have no low, high, log or step")
        if self.low is not None and self.high is not None:
            if self.low > self.high:
                raise ValueError("low is above high")
            if self.log and (self.low <= 0 or self.step is not None):
                raise ValueError("log needs a low above 0, and takes no step")
            if self.step is not None and (self.step <= 0 or (self.is_whole and not isinstance(self.step, int))):
                raise ValueError("step is not above 0, or not whole as low and high are")
        return self

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        how = "log" if self.log else "" if self.step is None else f"step {self.step}"
        return f"{self.low} to {self.high} {how}".rstrip()

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def applies(self, values: Mapping[str, Value]) -> bool:
        """Whether the key is varied beside values of others."""
        return all(key in values and values[key] in allowed for key, allowed in self.when.items())

    def suggest(self, trial: "Trial", key: str) -> Value:
        """The value of a trial, which is always the same after the first call."""
        if self.low is None or self.high is None:
            choice: Value = trial.suggest_categorical(key, self.choices)
            return choice
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def grid(self) -> Sequence[Value]:
        """All values, in order; none of a range without steps."""
        if self.low is None or self.high is None:
            return self.choices
        step = 1 if self.step is None and self.is_whole and not self.log else self.step
        if step is None:
            return ()
        count = int((self.high - self.low) / step + 1e-9)
        return [self.low + i * step for i in range(count + 1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Search:
    name: Name
    fixed: dict[Name, Value]
    """Values that all trials share, by key."""
    space: Annotated[dict[Name, Parameter], Field(min_length=1)]
    """What is varied, by key."""
    metric: Annotated[Name, AfterValidator(_metric)]
    """The score of an evaluation that trials are compared by; `miou`, as reports call it, is `probe_miou`."""
    direction: Literal["maximize", "minimize"]
    """Which is better: more, or less."""
    trials: Count
    """How many are tried, at most."""
    parallel: Count
    """How many are in the queue at a time."""
    sampler: Literal["tpe", "random", "grid"]
    """How trials are drawn: by Optuna's tree-structured Parzen estimator, at random, or each combination once."""
    pruner: Literal["median", "hyperband", "none"]
    """How a trial is stopped whose intermediate scores are worse than those of others, by Optuna's pruner."""
    startup_trials: Amount
    """How many are drawn at random before `tpe` suggests, and are not pruned before `median` does."""
    seed: Seed
    """Of the sampler: each trial's draws depend on it, on the trial's number and on the scores so far."""

    def grid(self, given: Mapping[str, Value]) -> list[Values]:
        """Each combination of the space beside given values, in order. Raises InputError for a range without steps."""
        if endless := [key for key, parameter in self.space.items() if not parameter.grid()]:
            raise InputError(f"search.sampler=grid: {endless[0]} is a range without steps; give it a step, or choices")
        points: list[Values] = [{}]
        for key, parameter in self.space.items():
            points = [
                {**point, **more}
                for point in points
                for more in ([{key: x} for x in parameter.grid()] if parameter.applies({**given, **point}) else [{}])
            ]
        return points


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Chosen:
    search: Search


def words(values: Values) -> list[str]:
    """Values as arguments of a command line."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def read_search(words: Sequence[str], extra: Path | None) -> Search:
    """The search of `+search=NAME` with the values given; `extra` is one more folder of groups. Raises InputError."""
    sources = Sources(name="launch", extra=extra)
    config = OmegaConf.to_container(composed(hydra_overrides(words, sources), sources), resolve=True)
    assert isinstance(config, dict)
    search = held_to(_Chosen, {key: value for key, value in config.items() if key == "search"}, sources).search
    earlier = set(search.fixed)
    for key, parameter in search.space.items():
        if missing := sorted(parameter.when.keys() - earlier):
            raise InputError(f"search.space.{key}.when.{missing[0]}: no earlier key of the space, and not in fixed")
        earlier.add(key)
    return search
