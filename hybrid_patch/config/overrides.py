"""Overrides from a command line as Hydra reads them, and back as a person types them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString

from hybrid_patch.config import messages
from hybrid_patch.config.field_types import LONGEST_NAME
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError

PATH_KEYS = (
    "run",
    "input",
    "output",
    "data.root",
    "data.statistics",
    "data.labels",
    "run_dir",
    "init.from",
    "continue_from",
    "target.cache",
)
"""Of a run's config and of the commands."""
LITERAL_KEYS = (*PATH_KEYS, "cluster.python", "cluster.container", "cluster.apptainer")
"""Their values are literal: no comma, quote, `=` or `$` means anything. `null` is null; a folder is `./null`."""
_LITERAL = re.compile(rf"(\+{{0,2}})({'|'.join(map(re.escape, LITERAL_KEYS))})=(.*)", re.DOTALL)
CLASS_KEY = "upsampler._target_"


def hydra_overrides(arguments: Sequence[str], sources: Sources, sweep: bool = False) -> list[str]:
    """Overrides in Hydra's grammar, paths quoted; with `sweep`, a key may have several values. Raises InputError.

    Values are forced (`++key=value`): the schema knows what to suggest for an unknown key, and a sweep may set a key
    that only some of its members have. A class given for the upsampler has none of the default upsampler's options.
    """
    overrides = [_hydra_override(argument, sources, sweep) for argument in arguments]
    keys = {key_of(argument) for argument in arguments}
    return ["upsampler=bilinear", *overrides] if CLASS_KEY in keys and "upsampler" not in keys else overrides


def chosen_beside_experiment(overrides: Sequence[str], sources: Sources) -> dict[str, list[str]]:
    """The groups that are chosen beside an experiment, with all overrides of each, in Hydra's grammar."""
    parsed = [parse(override) for override in overrides]
    chosen = [each.key_or_group for each in parsed if each.package is None and each.key_or_group in sources.groups()]
    if "experiment" not in chosen:
        return {}
    targets = [each.package or each.key_or_group for each in parsed]
    return {
        group: [text for text, at in zip(overrides, targets, strict=True) if at == group or at.startswith(f"{group}.")]
        for group in chosen
        if group not in ("experiment", "cluster") and "/" not in group
    }


def _hydra_override(argument: str, sources: Sources, sweep: bool) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError:
        shown = argument.encode(errors="backslashreplace").decode()
        raise InputError(f"{shown}: not UTF-8; rename the file or folder") from None
    if is_sweep_file(argument):
        raise InputError(f"{argument}: a sweep, which needs -m")
    text = quote_path(argument)
    override = parse(text)
    if not override.key_or_group:
        raise InputError(f"{argument}: no key before the =; write key=value")
    if override.key_or_group == "hydra/sweeper" or override.key_or_group.startswith("hydra.sweeper"):
        raise InputError(f"{argument}: sweepers of Hydra's are not used; hybrid-patch launch search searches")
    if override.is_sweep_override() and not sweep:
        raise InputError(f"{argument}: several values are a sweep, which needs -m; a list is written [a,b]")
    if override.is_delete() or override.package is not None:
        return text
    if override.key_or_group in sources.groups():
        if not override.is_sweep_override():
            _check_choice(argument, override, sources)
        return text.lstrip("+")  # every group has its place in the defaults list already
    is_value = "/" not in override.key_or_group and not override.is_hydra_override()
    return f"++{text.lstrip('+')}" if is_value else text


def _check_choice(argument: str, override: Override, sources: Sources) -> None:
    group, option = override.key_or_group, override.value()
    no_file = len(str(option)) > LONGEST_NAME or "\0" in str(option)
    if no_file or not isinstance(option, str | list):
        raise InputError(messages.no_such_option(group, messages.shown(option), sources.groups()[group]))
    if group == "cluster" and sources.name != "launch":
        raise InputError(f"{argument}: where members run is said to hybrid-patch launch submit")
    if group == "search" and sources.name != "launch":
        raise InputError(f"{argument}: a search, which is made by hybrid-patch launch search")
    if group == "modality":
        raise InputError(f"{argument}: say where it goes: +modality@data.modalities.{option}={option}")


@lru_cache(maxsize=4096)  # the members of a sweep have most of theirs in common
def parse(override: str) -> Override:
    """Parse an override. Raises InputError if it is none."""
    with in_one_line([override]):
        return OverridesParser.create().parse_overrides([override])[0]


@contextmanager
def in_one_line(overrides: Sequence[str]) -> Iterator[None]:
    """Whatever goes wrong in Hydra with these overrides becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(messages.composition_error(error, overrides)) from error


def quote(text: str) -> str:
    """A value of Hydra's override grammar that resolves to exactly this text."""
    if text == "???":  # OmegaConf's word for a missing value
        text = "./???"
    escaped = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
    return QuotedString(escaped, Quote.single).with_quotes()


def quote_path(argument: str) -> str:
    """An argument with its path, if it has one, quoted for Hydra."""
    match = _LITERAL.fullmatch(argument)
    if match is None or match[3] == "null":
        return argument
    return f"{match[1]}{match[2]}={quote(match[3])}"


def plain_argument(override: Override) -> str:
    """A parsed override as a person types it: the inverse of `quote_path`."""
    line = override.input_line or ""
    if override.package is None:  # a group that is added to a place keeps its plus
        line = line.lstrip("+")
    value = override.value()
    if override.key_or_group not in LITERAL_KEYS or not isinstance(value, str):
        return line
    text = re.sub(r"(\\+)\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", value)
    return f"{line.partition('=')[0]}={text}"


def key_of(argument: str) -> str:
    """The key of an override: `a.b` for `++a.b=1` and `~a.b`."""
    return argument.lstrip("+~").partition("=")[0]


def is_sweep_file(argument: str) -> bool:
    """Whether an argument names a file of `conf/sweep/`."""
    return key_of(argument) == "sweep" and argument[:1] != "~" and "=" in argument
