"""Command lines from dataclasses: parsing, help and errors of every command that is not Hydra's.

Each field is an option, `name=value`; pydantic reads the value by its type, and the `Annotated` mark explains it:

    @dataclass(frozen=True, kw_only=True)
    class EmbedOptions:
        run: Annotated[Path, Positional("DIR", "the trained run")]
        dims: Annotated[Count, Option("N", "numbers per pixel")] = 64

A field without a default must be given. Paths and texts are literal; tuples are written `[a,b]`; a `dict` takes
`name.KEY=value`. `__post_init__` raises InputError for what does not go together.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from hybrid_patch.config.field_types import LONGEST_NAME
from hybrid_patch.config.messages import did_you_mean, plain_reason
from hybrid_patch.errors import InputError

T = TypeVar("T")
KEY = r"[+~]{0,2}[A-Za-z_][\w./@]*"
"""The part of an override of Hydra's before its `=`; in anything else, `=` is part of a path."""


@dataclasses.dataclass(frozen=True)
class Option:
    """An option that is given by its name, `name=VALUE`."""

    value: str
    """How help writes the value; empty: from the type."""
    help: str


@dataclasses.dataclass(frozen=True)
class Positional(Option):
    """An option that needs no name, in the order of the fields; a tuple takes all the rest."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """An option that is given by a flag: a bool, true if it is, or with a value, `--flag VALUE` or `--flag=VALUE`."""

    flag: str
    help: str
    value: str = ""
    """How help writes the value; empty: it is a bool."""


@dataclasses.dataclass(frozen=True, eq=False)
class Overrides:
    """A tuple of overrides of a run's config, passed on as they were typed."""

    help: Mapping[str, str]
    """Its rows in the help."""
    groups: tuple[str, ...] = ()
    """What may be overridden; empty: anything."""
    required: str = ""
    """What must be among them, as the help's first line shows it."""

    def takes(self, argument: str) -> bool:
        key, equals, _ = argument.partition("=")
        if not equals and not key.startswith("~"):
            return False
        if self.groups:
            return key.lstrip("+").partition(".")[0] in self.groups
        return re.fullmatch(KEY, key) is not None


LONGEST_OUTPUT = LONGEST_NAME - 32
"""Bytes of an output's name: files beside it have its name and an ending."""


def _with_folder(path: Path) -> Path:
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}")
    if len(os.fsencode(path.name)) > LONGEST_OUTPUT:
        raise ValueError(f"its name is longer than {LONGEST_OUTPUT} bytes; give a shorter one")
    return path


def split_list(value: str) -> list[str]:
    """`[a,b]` as a list; commas within brackets belong to an item. Raises ValueError."""
    if not re.fullmatch(r"\[.*\]", value, re.DOTALL):
        raise ValueError("not a list; write it as [a,b]")
    return [item.strip() for item in re.split(r",(?![^\[{]*[\]}])", value[1:-1]) if item.strip()]


OutputFile = Annotated[Path, AfterValidator(_with_folder)]
"""A file whose folder exists."""
Items = Annotated[tuple[T, ...], BeforeValidator(split_list)]
"""A list, `[a,b]`."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def parse(options: type[T], arguments: Sequence[str]) -> T:
    """The options of a command line. Raises InputError, one line."""
    fields = option_fields(options)
    given: dict[str, Any] = {}
    words = iter(arguments)
    for argument in words:
        option = _option_of(argument, fields, given)
        key, equals, value = argument.partition("=")
        if isinstance(option.mark, Flag) and option.mark.value:
            text = value if equals else next(words, None)
            if not text:
                raise InputError(f"{argument}: without a value; give {option.shown}")
            _set_once(given, option.name, text, option.mark.flag)
        elif isinstance(option.mark, Flag):
            given[option.name] = True
        elif option.many:
            given.setdefault(option.name, []).append(argument)
        elif option.is_dict:
            key = key.removeprefix(f"{option.name}.")
            _set_once(given.setdefault(option.name, {}), key, value, f"{option.name}.{key}")
        else:
            _set_once(given, option.name, value if equals and key == option.name else argument, option.name)
    return _built(options, fields, given)


def _option_of(argument: str, fields: Mapping[str, "_Option"], given: Mapping[str, Any]) -> "_Option":
    """The option that an argument gives. Raises InputError if there is none."""
    if argument.startswith("-"):
        flags = {option.mark.flag: option for option in fields.values() if isinstance(option.mark, Flag)}
        with_value = {flag: each for flag, each in flags.items() if isinstance(each.mark, Flag) and each.mark.value}
        option = flags.get(argument) or with_value.get(argument.partition("=")[0])
        if option is None:
            takes = [*flags, "--help", "--version"]
            raise InputError(f"{argument}: no such flag; takes: {', '.join(takes)}{did_you_mean(argument, takes)}")
        return option
    key, equals, _ = argument.partition("=")
    named = fields.get(key if key in fields else key.partition(".")[0])
    if equals and named and named.is_dict == (key not in fields) and named.has_name:
        return named
    for option in fields.values():
        if isinstance(option.mark, Overrides) and option.mark.takes(argument):
            return option
    if (equals or key.startswith("~")) and re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w.]*", key):
        names = _names(fields)
        raise InputError(f"{argument}: unknown key; takes: {', '.join(names)}{did_you_mean(key, names)}")
    for option in fields.values():
        if isinstance(option.mark, Positional) and (option.many or option.name not in given):
            return option
    raise InputError(f"{argument}: one argument too many; takes: {', '.join(_names(fields))}")


def _set_once(values: dict[str, Any], key: str, value: str, shown: str) -> None:
    if key in values:
        raise InputError(f"{shown}={value}: given twice; before it was {values[key]}")
    values[key] = value


def _built(options: type[T], fields: Mapping[str, "_Option"], given: Mapping[str, Any]) -> T:
    values = {}
    for name, option in fields.items():
        if name not in given:
            if option.required:
                raise InputError(f"{name}: missing; give {option.shown}")
            continue
        if option.is_dict:
            item = get_args(option.bare)[1]
            values[name] = {key: _value(f"{name}.{key}", item, text) for key, text in given[name].items()}
        else:
            values[name] = _value(name, option.annotation, given[name])
    return options(**values)


def _value(key: str, annotation: Any, text: Any) -> Any:
    try:
        return _adapter(annotation).validate_python(text)
    except ValidationError as error:
        reasons = dict.fromkeys(plain_reason(each) for each in error.errors(include_url=False))
        first, *others = reasons
        reason = " or ".join([first, *(each.removeprefix("must be ") for each in others)])
        choices = [choice for choice in _choices(annotation) if isinstance(choice, str)]
        shown = text if isinstance(text, str) else " ".join(text)
        raise InputError(f"{key}={shown}: {reason}{did_you_mean(shown, choices)}") from None


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


@dataclasses.dataclass(frozen=True)
class _Option:
    """A field of a command's options."""

    name: str
    annotation: Any
    mark: Option | Flag | Overrides
    default: Any

    @property
    def bare(self) -> Any:
        """The type without its marks and `| None`."""
        bare = self.annotation
        while get_origin(bare) is Annotated:
            bare = get_args(bare)[0]
        if get_origin(bare) in (Union, UnionType):
            types = [each for each in get_args(bare) if each is not type(None)]
            bare = dataclasses.replace(self, annotation=types[0]).bare if len(types) == 1 else bare
        return bare

    @property
    def is_dict(self) -> bool:
        return get_origin(self.bare) is dict

    @property
    def many(self) -> bool:
        """Whether each argument without its name is one of its items."""
        is_tuple = get_origin(self.bare) is tuple
        return isinstance(self.mark, Overrides) or (isinstance(self.mark, Positional) and is_tuple)

    @property
    def has_name(self) -> bool:
        return isinstance(self.mark, Option) and not self.many

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    def names(self) -> list[str]:
        """The keys that it takes, for messages."""
        if isinstance(self.mark, Overrides) and not self.mark.groups:
            return ["key=value"]
        return [] if isinstance(self.mark, Flag) else [shown.partition("=")[0] for shown, _ in self.lines()]

    @property
    def shown(self) -> str:
        if isinstance(self.mark, Flag):
            return f"{self.mark.flag} {self.mark.value}".rstrip()
        assert isinstance(self.mark, Option)
        value = self.mark.value or "|".join(map(str, _choices(self.annotation)))
        if self.many:
            return f"{value} ..."
        return f"{self.name}.{value}" if self.is_dict else f"{self.name}={value}"

    def lines(self) -> list[tuple[str, str]]:
        """Its rows in the help."""
        if isinstance(self.mark, Overrides):
            return list(self.mark.help.items())
        quiet = self.required or self.default in (None, False, (), {}) or "default" in self.mark.help
        default = f" (default: {_shown_default(self.default)})" if not quiet else ""
        return [(self.shown, self.mark.help + default)]


def option_fields(options: type) -> dict[str, _Option]:
    hints = get_type_hints(options, include_extras=True)
    declared = {}
    for field in dataclasses.fields(options):
        marks = [mark for mark in get_args(hints[field.name]) if isinstance(mark, Option | Flag | Overrides)]
        if marks:
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            declared[field.name] = _Option(field.name, hints[field.name], marks[0], default)
    return declared


def option_names(options: type) -> list[str]:
    return _names(option_fields(options))


def _names(fields: Mapping[str, _Option]) -> list[str]:
    return [name for option in fields.values() for name in option.names()]


def _choices(annotation: Any) -> list[Any]:
    """The words of a `Literal` or bool within a type."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    parts = get_args(annotation)[: 1 if get_origin(annotation) is Annotated else None]
    return [choice for part in parts for choice in _choices(part)]


def _shown_default(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"[{','.join(map(str, default))}]" if isinstance(default, tuple) else str(default)
