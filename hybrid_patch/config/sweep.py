"""The members of a sweep: the arguments of each, and the configs that they compose."""

import itertools
import pickle
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from hybrid_patch.config.compose import completed, composed, hydra_context, with_values
from hybrid_patch.config.continued import KEY
from hybrid_patch.config.overrides import hydra_overrides, in_one_line, is_sweep_file, key_of, plain_argument
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError


def sweep_members(arguments: Sequence[str], sources: Sources) -> list[list[str]]:
    """The arguments of each member of a sweep over `a,b`, `range(...)`, `glob(...)`; they are not checked.

    Raises InputError if a value is no sweep in Hydra's grammar.
    """
    overrides = hydra_overrides(with_sweep_written_out(arguments, sources), sources, sweep=True)
    with in_one_line(overrides), hydra_context(sources):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        values = {each.get_key_element(): _values(each) for each in parser.parse_overrides(overrides)}
        members = itertools.product(*([f"{key}={value}" for value in all_] for key, all_ in values.items()))
        return [[plain_argument(override) for override in parser.parse_overrides(list(each))] for each in members]


def _values(override: Override) -> list[str]:
    """The values that a sweep gives a key. Raises InputError for a range of real numbers."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise InputError(f"{override.input_line}: not a list of values; write key=a,b or key=range(0,3)")
    return list(override.sweep_string_iterator())


def with_sweep_written_out(arguments: Sequence[str], sources: Sources) -> list[str]:
    """`sweep=<name>` replaced by the `hydra.sweeper.params` of `conf/sweep/<name>.yaml`, without keys given beside it.

    Raises InputError for more than one sweep, and for a file that says anything else: a member is its arguments alone.
    """
    chosen = [argument for argument in arguments if is_sweep_file(argument)]
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


class Composer:
    """Composes configs; members that choose the same groups set their values in copies of one composition."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._bases: dict[tuple[str, ...], bytes] = {}

    def config(self, arguments: Sequence[str]) -> Config:
        """As `compose(arguments, sources)`."""
        overrides = hydra_overrides(arguments, self._sources)
        base, values = _split(overrides)
        if base not in self._bases:
            self._bases[base] = pickle.dumps(composed(base, self._sources))
        config: DictConfig = pickle.loads(self._bases[base])  # faster than a deep copy
        return completed(with_values(config, values), overrides, self._sources)


def _split(overrides: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Overrides that decide what is composed (groups, all up to the last `~key` or `continue_from`), and those that
    only set values."""
    last = max((i for i, text in enumerate(overrides) if text.startswith("~") or key_of(text) == KEY), default=-1)
    base = tuple(text for i, text in enumerate(overrides) if i <= last or not text.startswith("++"))
    return base, [text for text in overrides[last + 1 :] if text.startswith("++")]


def each_config(lines: Sequence[Sequence[str]], sources: Sources) -> list[Config | InputError]:
    """The config of each line of arguments, or what is wrong with it."""
    composer = Composer(sources)
    configs: list[Config | InputError] = []
    for line in lines:
        try:
            configs.append(composer.config(line))
        except InputError as error:
            configs.append(error)
    return configs
