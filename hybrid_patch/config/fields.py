"""The schema beside a plain config: which class describes a node, and which fields are in the recipe."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from hybrid_patch.config import upsamplers
from hybrid_patch.config.field_types import NOT_IN_RECIPE


def strip(annotation: Any) -> tuple[Any, bool]:
    """The type behind `Annotated` and `| None`, and whether it is marked `Aside`."""
    aside = False
    while get_origin(annotation) is Annotated:
        annotation, *marks = get_args(annotation)
        aside = aside or any(mark is NOT_IN_RECIPE for mark in marks)
    if is_union(annotation):
        options = [option for option in get_args(annotation) if option is not type(None)]
        if len(options) == 1:
            bare, inner = strip(options[0])
            return bare, aside or inner
    return annotation, aside


def is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


@cache
def annotations(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, by key."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name.removesuffix("_"): hints[field.name] for field in dataclasses.fields(cls)}


def options(annotation: Any) -> dict[str, type]:
    """The classes of a union, by the `name` that chooses between them; empty if it is no such union."""
    bare, _ = strip(annotation)
    if bare is upsamplers.Upsampler:
        return {name: upsamplers.listed_options(name) for name in upsamplers.built_in()}
    if not is_union(bare):
        return {}
    return {get_args(strip(annotations(cls)["name"])[0])[0]: cls for cls in get_args(bare)}


def class_of(annotation: Any, value: object) -> type | None:
    """The dataclass that describes a plain node; None for a scalar, a list or a free dict."""
    bare, _ = strip(annotation)
    if dataclasses.is_dataclass(bare) and isinstance(bare, type):
        return bare
    if isinstance(value, Mapping):
        if bare is upsamplers.Upsampler:
            return upsamplers.options_class(value)
        return options(annotation).get(value.get("name", ""))
    return None


def child(annotation: Any, value: object, key: str | int) -> Any:
    """The annotation of a node's child; None if the schema has no such child."""
    cls = class_of(annotation, value)
    if cls is not None:
        return annotations(cls).get(str(key))
    bare, _ = strip(annotation)
    if get_origin(bare) is dict:
        return get_args(bare)[1]
    if get_origin(bare) is tuple:
        return get_args(bare)[0]
    return None


def without_aside(annotation: Any, value: Any) -> Any:
    """A copy of a plain node without the fields that are marked `Aside`."""
    if isinstance(value, Mapping):
        annotations = {key: child(annotation, value, key) for key in value}
        return {key: without_aside(annotations[key], value[key]) for key in value if not strip(annotations[key])[1]}
    if isinstance(value, list):
        return [without_aside(child(annotation, value, i), item) for i, item in enumerate(value)]
    return value
