"""From overrides to a `Config`: composed by Hydra, validated by the schema, checked; frozen in a run, and read back."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from hybrid_patch.config import messages
from hybrid_patch.config.checks import problems, upsampler_problems
from hybrid_patch.config.continue_options import ContinueFrom
from hybrid_patch.config.continued import continued_run, groups_and_values, refuse_another_model, with_choices
from hybrid_patch.config.curriculum import samples_before
from hybrid_patch.config.overrides import chosen_beside_experiment, hydra_overrides, in_one_line, parse, quote
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources
from hybrid_patch.config.upsamplers import ASK_CLASS
from hybrid_patch.errors import InputError
from hybrid_patch.runs.continuation import newest_state
from hybrid_patch.runs.records import DamagedFileError, read_yaml

T = TypeVar("T")


def compose(arguments: Sequence[str] = (), sources: Sources | None = None) -> Config:
    """The config of one run, from overrides as typed on the command line. Raises InputError, one line."""
    sources = sources or Sources()
    overrides = hydra_overrides(arguments, sources)
    return completed(composed(overrides, sources), overrides, sources)


def completed(config: DictConfig, overrides: Sequence[str], sources: Sources) -> Config:
    """The config of a run from that composed of overrides: resolved and checked. Raises InputError."""
    run = checked(held_to_schema(config, sources))
    if run.continue_from is not None:
        before = frozen_config(Path(run.continue_from.run))
        refuse_another_model(plain_values(before), plain_values(run), overrides)
    return run


def composed(overrides: Sequence[str], sources: Sources, with_hydra: bool = False) -> DictConfig:
    """Hydra's config of overrides in its grammar, unresolved, with its own settings or without. Raises InputError.

    With `continue_from` among them, the config of that run takes the place of the defaults.
    """
    if (run := continued_run(overrides)) is not None:
        return _continued(run, overrides, sources)
    extra = [] if sources.extra is None else [f"hydra.searchpath=[{quote(str(sources.extra.resolve()))}]"]
    with in_one_line(overrides), hydra_context(sources):
        config = hydra.compose(sources.name, overrides=[*extra, *overrides], return_hydra_config=with_hydra)
        OmegaConf.set_struct(config, False)
        # Hydra composes an experiment last: its values would be laid over a group that the person has chosen.
        for group, of_group in chosen_beside_experiment(overrides, sources).items():
            config[group] = hydra.compose(sources.name, overrides=[*extra, *of_group])[group]
        return config


def _continued(run: str, overrides: Sequence[str], sources: Sources) -> DictConfig:
    groups = sources.groups()
    chosen, values = groups_and_values(overrides, groups)
    step, checkpoint = newest_state(run)
    before = frozen_config(Path(run))
    state = ContinueFrom(run=run, step=step, samples=samples_before(before, step), checkpoint=checkpoint)
    curriculum = before.curriculum.name
    same = [f"curriculum={curriculum}"] if curriculum in groups["curriculum"] else []
    return with_values(with_choices(plain_values(before), state, chosen, composed([*same, *chosen], sources)), values)


def with_values(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A config with the values that overrides (`++key=value`) set, as Hydra does once all groups are in place."""
    with in_one_line(overrides):
        for override in map(parse, overrides):
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=True)
    return config


def held_to_schema(config: DictConfig, sources: Sources, allow_missing: bool = False) -> Config:
    """Resolve a composed config into a `Config`, mandatory values as `???` with `allow_missing`. Raises InputError."""
    return held_to(Config, _resolved(config, throw_on_missing=not allow_missing), sources)


def held_to(schema: type[T], plain: dict[str, Any], sources: Sources, context: dict[str, Any] | None = None) -> T:
    """The class of a schema, built from plain values. Raises InputError."""
    try:
        # By way of JSON, in which a strict schema takes a list for a tuple.
        return cast(T, _adapter(schema).validate_json(json.dumps(plain), context=context))
    except ValidationError as error:
        raise InputError(messages.schema_error(error, plain, sources.groups(), schema)) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"config: not plain values ({error})") from error


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)

NAME = "config.yaml"
# In C, ten times faster; part of PyYAML's wheels.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def as_yaml(config: Config) -> str:
    return yaml.dump(plain_values(config), Dumper=_DUMPER, sort_keys=False)


def frozen_config(folder: Path) -> Config:
    """The config of the run in a directory, read without Hydra's groups. Raises InputError if there is none."""
    path = folder / NAME
    plain = read_yaml(path)
    if plain is None:
        raise InputError(f"run={folder}: not a run directory; there is no {NAME} in it")
    try:
        config = OmegaConf.create(plain)
    except OmegaConfBaseException as error:
        raise DamagedFileError(path, error) from None
    return held_to_schema(config, Sources())


def plain_values(config: Config) -> dict[str, Any]:
    plain: dict[str, Any] = _adapter(Config).dump_python(config, mode="json", by_alias=True)
    return plain


def checked(config: Config) -> Config:
    """The same config, with the defaults of a class that it names. Raises InputError if its fields do not go together.

    Upsamplers come last, by their classes only where the yaml cannot tell: that imports torch.
    """
    lines = problems(config)
    if not lines:
        chosen = [choice for choice in (config.upsampler, config.decoder.upsampler) if choice is not None]
        if not all(choice.is_default for choice in chosen):
            config = held_to(Config, plain_values(config), Sources(), ASK_CLASS)
        lines = upsampler_problems(config)
    if lines:
        raise InputError(lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""))
    return config


@contextmanager
def hydra_context(sources: Sources) -> Iterator[None]:
    """Hydra, started on these sources."""
    running = GlobalHydra.instance().hydra  # set when called inside a command that Hydra runs
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(sources.folder.resolve()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def _resolved(config: DictConfig, throw_on_missing: bool) -> dict[str, Any]:
    if "hydra" in config:
        config = copy.deepcopy(config)
        with open_dict(config):
            config.pop("hydra")
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=throw_on_missing)
    except Exception as error:
        unresolved = OmegaConf.to_container(config, resolve=False)
        assert isinstance(unresolved, dict)
        raise InputError(messages.resolution_error(error, {str(k): v for k, v in unresolved.items()})) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
