"""From overrides to a `Config`: composed by Hydra, held to the schema, and checked."""

import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import TypeAdapter, ValidationError

from hybrid_patch.config import messages
from hybrid_patch.config.checks import problems, upsampler_problems
from hybrid_patch.config.conf_folder import conf_folder
from hybrid_patch.config.literal import key_of, plain_argument, quote, quote_path
from hybrid_patch.config.schema import Config
from hybrid_patch.config.upsamplers import ASK_CLASS
from hybrid_patch.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where configs are read from: the folder of the groups, the primary config's name, and one more folder."""

    folder: Path = field(default_factory=conf_folder)
    name: str = "config"
    extra: Path | None = None

    @cache  # noqa: B019  # a few small values, for a command's lifetime
    def groups(self) -> dict[str, list[str]]:
        """The options of each group, by the group's path (`patch`, `modality`, ...)."""
        options: dict[str, set[str]] = {}
        for folder in filter(None, (self.folder, self.extra)):
            for file in folder.glob("*/**/*.yaml"):
                options.setdefault(file.parent.relative_to(folder).as_posix(), set()).add(file.stem)
        return {group: sorted(names) for group, names in options.items()}


def compose(arguments: Sequence[str] = (), sources: Sources | None = None) -> Config:
    """The config of one run, from overrides as they stand on the command line (paths literally).

    Raises InputError, one line, for anything that is wrong with them.
    """
    sources = sources or Sources()
    return checked(held_to_schema(composed(hydra_overrides(arguments, sources), sources), sources))


def hydra_overrides(arguments: Sequence[str], sources: Sources, sweep: bool = False) -> list[str]:
    """Overrides from the command line as Hydra is to read them.

    Paths are quoted. Values are forced (`++key=value`), so that an unknown key reaches the schema, which knows what
    to suggest, and so that a sweep may set a key that only some of its members have.
    """
    groups = sources.groups()
    result = []
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode(errors="backslashreplace").decode()
            raise InputError(f"{shown}: not UTF-8; rename the file or folder") from None
        if _is_sweep_file(argument):
            raise InputError(f"{argument}: a sweep, which needs -m")
        text = quote_path(argument)
        parsed = parse(text)
        if not parsed.key_or_group:
            raise InputError(f"{argument}: no key before the =; write key=value")
        if parsed.is_sweep_override() and not sweep:
            raise InputError(f"{argument}: several values are a sweep, which needs -m; a list is written [a,b]")
        is_group = parsed.key_or_group in groups and parsed.package is None
        if is_group and not parsed.is_delete() and not parsed.is_sweep_override():
            group, option = parsed.key_or_group, parsed.value()
            if not isinstance(option, str | list):
                raise InputError(messages.no_such_option(group, messages.shown(option), groups[group]))
            if group == "cluster" and sources.name != "launch":
                raise InputError(f"{argument}: where members run is said to hybrid-patch launch submit")
            if group == "modality":
                raise InputError(f"{argument}: say where it goes: +modality@data.modalities.{option}={option}")
        bare = text.lstrip("+")
        is_value = re.fullmatch(r"[^/@]+", parsed.key_or_group) and not is_group and parsed.package is None
        if is_value and not parsed.is_delete() and not parsed.is_hydra_override():
            text = f"++{bare}"
        elif is_group and parsed.is_add():
            text = bare  # every group has its place in the defaults list already
        result.append(text)
    return result


@lru_cache(maxsize=4096)  # the members of a sweep have most of theirs in common
def parse(override: str) -> Override:
    """An override in Hydra's grammar. Raises InputError if it is none."""
    with in_one_line([override]):
        return OverridesParser.create().parse_overrides([override])[0]


def composed(overrides: Sequence[str], sources: Sources, with_hydra: bool = False) -> DictConfig:
    """What Hydra makes of overrides in its grammar, unresolved, with its own settings or without. Raises InputError."""
    extra = [] if sources.extra is None else [f"hydra.searchpath=[{quote(str(sources.extra.resolve()))}]"]
    with in_one_line(overrides), _hydra(sources):
        config = hydra.compose(sources.name, overrides=[*extra, *overrides], return_hydra_config=with_hydra)
        OmegaConf.set_struct(config, False)
        return config


def sweep_members(arguments: Sequence[str], sources: Sources) -> list[list[str]]:
    """The members of a sweep over comma-separated values, `range(...)`, `glob(...)`: the arguments of each.

    Raises InputError if a value is no sweep in Hydra's grammar. The members themselves are not judged.
    """
    overrides = hydra_overrides(with_sweep_written_out(arguments, sources), sources, sweep=True)
    with in_one_line(overrides), _hydra(sources):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        values = {each.get_key_element(): _values(each) for each in parser.parse_overrides(overrides)}
        members = itertools.product(*([f"{key}={value}" for value in all_] for key, all_ in values.items()))
        return [[plain_argument(override) for override in parser.parse_overrides(list(each))] for each in members]


def _values(override: Override) -> list[str]:
    """The values of a key, one for each member of a sweep. Raises InputError for a range of real numbers."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise InputError(f"{override.input_line}: not a list of values; write key=a,b or key=range(0,3)")
    return list(override.sweep_string_iterator())


def with_sweep_written_out(arguments: Sequence[str], sources: Sources) -> list[str]:
    """`sweep=<name>` replaced by what `conf/sweep/<name>.yaml` sweeps over, its `hydra.sweeper.params`.

    A key that the arguments have themselves keeps what they say. Raises InputError for more than one sweep, and for a
    file that says anything else: members are described by their arguments alone.
    """
    chosen = [argument for argument in arguments if _is_sweep_file(argument)]
    if not chosen:
        return list(arguments)
    said, name = chosen[0].lstrip("+"), chosen[-1].partition("=")[2]
    if len(chosen) > 1 or "," in name:
        raise InputError(f"{' '.join(chosen)}: one sweep at a time; sweep over more keys with key=a,b beside it")
    plain, config = (composed(words, sources, with_hydra=True) for words in ([], [said]))
    params = config.hydra.sweeper.params or {}
    for each in (plain, config):
        each.pop("hydra")
    if not params or plain != config:
        raise InputError(f"{said}: a file in conf/sweep/ holds hydra.sweeper.params and nothing else")
    rest = [argument for argument in arguments if argument not in chosen]
    given_keys = {key_of(argument) for argument in rest}
    return [*(f"{key}={value}" for key, value in params.items() if key_of(key) not in given_keys), *rest]


def _is_sweep_file(argument: str) -> bool:
    return re.match(r"\+{0,2}sweep=", argument) is not None


def held_to_schema(config: DictConfig, sources: Sources, allow_missing: bool = False) -> Config:
    """Resolve a composed config and build the schema's classes from it. Raises InputError.

    Args:
        allow_missing: let mandatory values stay the text `???` (to print a config that is not complete).
    """
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


def plain_values(config: Config) -> dict[str, Any]:
    """A config as dictionaries, lists, texts and numbers."""
    plain: dict[str, Any] = _adapter(Config).dump_python(config, mode="json")
    return plain


def checked(config: Config) -> Config:
    """The same config, with the defaults of a class that it names. Raises InputError if its fields do not go together.

    Upsamplers are judged last, and by their classes only where their yamls cannot tell: that imports torch.
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
def _hydra(sources: Sources) -> Iterator[None]:
    running = GlobalHydra.instance().hydra  # set when called inside a command that Hydra runs
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(sources.folder.resolve()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


@contextmanager
def in_one_line(overrides: Sequence[str]) -> Iterator[None]:
    """Whatever goes wrong while Hydra composes with these overrides is bad input."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(messages.composition_error(error, overrides)) from error


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
