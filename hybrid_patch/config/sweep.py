"""The configs of the many members of a sweep, composed once for each choice of groups, and the same as one by one."""

import pickle
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from hybrid_patch.config.compose import Sources, checked, composed, held_to_schema, hydra_overrides, in_one_line, parse
from hybrid_patch.config.recipe import data_fingerprint
from hybrid_patch.config.schema import Config, Data
from hybrid_patch.errors import InputError


class Composer:
    """Composes configs; what a choice of groups gives is kept, and later members only set their values in a copy."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._bases: dict[tuple[str, ...], bytes] = {}

    def config(self, arguments: Sequence[str]) -> Config:
        """As `compose(arguments, sources)`. Raises InputError as it does."""
        overrides = hydra_overrides(arguments, self._sources)
        base, values = _split(overrides)
        if base not in self._bases:
            self._bases[base] = pickle.dumps(composed(base, self._sources))
        config: DictConfig = pickle.loads(self._bases[base])  # faster than a deep copy
        with in_one_line(values):
            for override in map(parse, values):  # what Hydra does with `++key=value` once all groups are in place
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=True)
        return checked(held_to_schema(config, self._sources))


def _split(overrides: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Overrides that decide what is composed, and those after them that set a value each.

    Groups are chosen before any value is set. What is taken away (`~key`) is in order with the values.
    """
    last = max((i for i, text in enumerate(overrides) if text.startswith("~")), default=-1)
    base = tuple(text for i, text in enumerate(overrides) if i <= last or not text.startswith("++"))
    return base, [text for text in overrides[last + 1 :] if text.startswith("++")]


class Fingerprints:
    """The identity of each data set, read once."""

    def __init__(self) -> None:
        self._fingerprints: dict[str, str] = {}

    def __call__(self, data: Data) -> str:
        """As `data_fingerprint`."""
        key = repr(data)
        if key not in self._fingerprints:
            self._fingerprints[key] = data_fingerprint(data)
        return self._fingerprints[key]


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
