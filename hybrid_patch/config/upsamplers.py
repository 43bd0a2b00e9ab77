"""The choice of an upsampler in a config: a built-in one by `name`, or any class by `_target_`, and its options.

The keys and types of a built-in one are those of `conf/upsampler/<name>.yaml`, so that most bad input ends before torch
is imported; everything else is declared by the class (`declared_options`).
"""

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any

import yaml
from pydantic import Field, GetCoreSchemaHandler, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from hybrid_patch.config.modality import STRICT
from hybrid_patch.config.sources import conf_folder
from hybrid_patch.errors import InputError

PACKAGE = "hybrid_patch.model.upsampler"
"""A module for each built-in one."""
TARGET = "_target_"
"""The key that names a class, as in Hydra."""
_adapter: Callable[[type], TypeAdapter[Any]] = cache(TypeAdapter)
PIXEL_DROPOUT = "pixel_dropout"
"""The option of upsamplers that need pixels, and of no other: the share of them that training drops."""
DEFAULT_PIXEL_DROPOUT = 0.5
ASK_CLASS = {"ask_class": True}
"""Validation context: check a choice by what its class declares."""


class Upsampler(dict[str, Any]):
    """An upsampler and its options, as in the yaml: `{"name": "learned", "width": 64}`; built in without `_target_`."""

    @property
    def name(self) -> str:
        name: str = self["name"]
        return name

    @property
    def pixel_dropout(self) -> float | None:
        """The share of the pixels that it does not see in training; None if it looks at no pixels."""
        return self.get(PIXEL_DROPOUT)

    @property
    def is_built_in(self) -> bool:
        return TARGET not in self

    @property
    def is_default(self) -> bool:
        """Whether it is built in and has the options of its yaml."""
        return self.is_built_in and self == _yaml(self.name)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(cls._validate)

    @classmethod
    def _validate(cls, value: object, info: Any) -> "Upsampler":
        """Without `ASK_CLASS`: keys and types of a built-in one. With it: its ranges too, and defaults filled in."""
        if not isinstance(value, Mapping):
            raise PydanticCustomError("dataclass_type", "must be a group of values")
        plain = _with_name(value)
        if TARGET in plain and not info.context:
            return cls(plain)
        if TARGET not in plain and plain["name"] not in built_in():
            raise PydanticCustomError("union_tag_invalid", "no such upsampler")
        try:
            declared = declared_options(load_class(plain)) if info.context else listed_options(plain["name"])
        except InputError as error:
            raise ValueError(str(error)) from error
        adapter = _adapter(declared)
        target = {key: plain.pop(key) for key in (TARGET,) if key in plain}
        # By way of JSON, in which a strict schema takes a list for a tuple.
        options = adapter.dump_python(adapter.validate_json(json.dumps(plain)), mode="json")
        return cls({"name": options.pop("name"), **target, **options})


@cache
def built_in() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (conf_folder() / "upsampler").glob("*.yaml")))


def options_class(choice: Mapping[str, Any]) -> type | None:
    """A dataclass of what a choice takes; None if it is neither built in nor a class that can be imported."""
    choice = _with_name(choice)
    if TARGET not in choice:
        return listed_options(choice["name"]) if choice["name"] in built_in() else None
    try:
        return declared_options(load_class(choice))
    except InputError:
        return None


@cache
def declared_options(cls: type) -> type:
    """A dataclass of the keyword-only arguments of an upsampler's constructor."""
    fields: dict[str, tuple[Any, Any]] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in _keyword_only(cls).items()
    }
    if getattr(cls, "needs_pixels", False):
        fields.setdefault(PIXEL_DROPOUT, (Annotated[float, Field(ge=0, lt=1)], DEFAULT_PIXEL_DROPOUT))
    return _dataclass(cls.__name__, fields)


def arguments(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the constructor of the class takes."""
    return {name: choice[name] for name in _keyword_only(load_class(choice)) if name in choice}


def load_class(choice: Mapping[str, Any]) -> type:
    """The class of a choice. Raises InputError if there is none."""
    target = choice.get(TARGET)
    if target is None:
        module = importlib.import_module(f"{PACKAGE}.{choice['name']}")
        return next(x for x in vars(module).values() if _is_upsampler(x) and x.__module__ == module.__name__)
    try:
        module_name, _, name = str(target).rpartition(".")
        cls = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the code of a module raises
        reason = f"cannot be imported ({error}); install its package, or put its folder on PYTHONPATH"
        raise InputError(f"{TARGET}={target}: {reason}") from error
    if not _is_upsampler(cls):
        raise InputError(f"{TARGET}={target}: not an upsampler; must be a subclass of {PACKAGE}.Upsampler")
    assert isinstance(cls, type)
    return cls


def _with_name(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice with a name that fits its class: a built-in class is told by its name alone."""
    plain = {"name": None, **choice}
    if TARGET in plain:
        module, _, name = str(plain[TARGET]).rpartition(".")
        if module.removeprefix(f"{PACKAGE}.") in built_in():
            del plain[TARGET]
            plain["name"] = module.removeprefix(f"{PACKAGE}.")
        elif plain["name"] is None or plain["name"] in built_in():  # left over from the default
            plain["name"] = name
    return plain


@cache
def _text(name: str) -> str:
    return (conf_folder() / "upsampler" / f"{name}.yaml").read_text()


@cache
def _yaml(name: str) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load(_text(name))
    return plain


@cache
def listed_options(name: str) -> type:
    """What the yaml of a built-in upsampler lists: each value's type, and the comment beside it for `--help`."""
    docs = dict(re.findall(r"^(\w+):.*?  # (.*)$", _text(name), re.MULTILINE))
    return _dataclass(name, {key: (Any if x is None else type(x), ...) for key, x in _yaml(name).items()}, docs)


def _dataclass(name: str, fields: Mapping[str, tuple[Any, Any]], docs: Mapping[str, str] | None = None) -> type:
    """A strict dataclass of a name and some fields: type, and default or `...`; `docs` are for `--help`."""
    parts = [
        (key, kind) if default is ... else (key, kind, dataclasses.field(default=default))
        for key, (kind, default) in {"name": (str, ...), **fields}.items()
    ]
    plain = dataclasses.make_dataclass(name, parts, kw_only=True, namespace={"OPTION_DOCS": docs or {}})
    made: type = dataclass(config=STRICT)(plain)
    return made


def _keyword_only(cls: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(cls, eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def _is_upsampler(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, importlib.import_module(PACKAGE).Upsampler)
