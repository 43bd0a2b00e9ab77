"""Overrides that give a config the values of another: how a run's own options go into a new command line."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

from omegaconf import OmegaConf

from hybrid_patch.config.compose import composed
from hybrid_patch.config.overrides import PATH_KEYS, hydra_overrides, quote
from hybrid_patch.config.sources import Sources


def overrides_to(wanted: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """The overrides that give the config of some words the plain values of `wanted`, by dotted keys.

    As typed on the command line: `hydra_overrides` takes them after the words. Raises InputError.
    """
    sources = Sources()
    config = composed(hydra_overrides(words, sources), sources)
    current: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    words_of = (_changes(key, values, reduce(getitem, key.split("."), current)) for key, values in wanted.items())
    return [word for each in words_of for word in each]


def _changes(key: str, wanted: Any, current: Any) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(current, Mapping):
        for name, value in wanted.items():
            yield from _changes(f"{key}.{name}", value, current.get(name, ...))
        yield from (f"~{key}.{name}" for name in current if name not in wanted)
    elif wanted != current:
        yield f"{key}={wanted}" if key in PATH_KEYS and isinstance(wanted, str) else f"{key}={_text(wanted)}"


def _text(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return quote(value) if isinstance(value, str) else repr(value)
