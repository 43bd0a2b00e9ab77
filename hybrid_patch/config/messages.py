"""Errors of Hydra, OmegaConf and pydantic as one line: the key, its value, what is wrong, what to try."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue
from pydantic import ValidationError

from hybrid_patch.config import fields

LONGEST_VALUE = 80
MAX_LINES = 4
"""Of a config's problems; the others are counted."""
PLAIN_WORDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid array": "a list, like [a,b]",
    "a valid date or datetime": "a date, like 2024-05-31",
    "could not parse value and unit from byte string": "not a number of bytes, like 40GiB or 500MB",
}


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """` (did you mean ...?)` if one of the words is close, else nothing."""
    close = difflib.get_close_matches(word, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def no_such_option(group: str, option: str, names: Sequence[str]) -> str:
    return f"{group}={option}: no such option; takes: {', '.join(names)}{did_you_mean(option, names)}"


def composition_error(error: Exception, overrides: Sequence[str]) -> str:
    """The line for an error of Hydra or OmegaConf while composing with some overrides."""
    if isinstance(error, OverrideParseException):
        reason = error.message.removeprefix(f"Error parsing override '{error.override}'\n").partition("\n")[0]
        return f"{error.override}: not key=value in Hydra's grammar ({reason}); quote a value with special characters"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return no_such_option(group, option, error.options)
    causes = [error] if error.__cause__ is None else [error, error.__cause__]
    words = " ".join(" ".join(str(cause).partition("\n    full_key")[0] for cause in causes).split())
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if f"'{key}'" in words or override in words or len(overrides) == 1:
            return f"{shown(override.lstrip('+'))}: {words}"
    lists = [override for override in overrides if "=[" in override]
    if isinstance(error, TypeError) and lists:  # a list of lists for the option of a group
        return f"{shown(lists[-1].lstrip('+'))}: {words}"
    place = getattr(causes[-1], "full_key", None)
    return (f"{place}: " if place else "") + (words or type(error).__name__)


def resolution_error(error: Exception, unresolved: Mapping[str, Any]) -> str:
    """The line for a value that cannot be resolved: missing, or a bad interpolation."""
    key = getattr(error, "full_key", None) or "config"
    if isinstance(error, MissingMandatoryValue):
        return f"{key}: missing; give {key}=<value>"
    reason = str(error).partition("\n")[0] or type(error).__name__
    value = _lookup(unresolved, key.split("."))
    if isinstance(error, InterpolationResolutionError):
        reason += "; a text with ${ in it is written \\${"
    return f"{key}={value}: {reason}"


def schema_error(
    error: ValidationError, plain: Mapping[str, Any], groups: Mapping[str, Sequence[str]], schema: type
) -> str:
    """The line for a plain config that does not fit the schema; `groups` are the options of each group."""
    lines = [_schema_line(problem, plain, groups, schema) for problem in error.errors(include_url=False)]
    more = f" (and {len(lines) - MAX_LINES} more)" if len(lines) > MAX_LINES else ""
    return "; ".join(lines[:MAX_LINES]) + more


def _schema_line(error: Any, plain: Mapping[str, Any], groups: Mapping[str, Sequence[str]], schema: type) -> str:
    annotation: Any = schema
    node: Any = plain
    keys: list[str | int] = []
    owner: tuple[Any, Any] = (schema, plain)
    for part in error["loc"]:
        if fields.is_union(fields.strip(annotation)[0]) and not isinstance(node, list):
            annotation = fields.class_of(annotation, node) or annotation  # pydantic names the chosen option here
            continue
        owner = (annotation, node)
        annotation = fields.child(annotation, node, part)
        node = _lookup(node, [part])
        keys.append(part)
    key = ".".join(map(str, keys)) or "config"
    value = shown(node)
    kind = error["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        names = list(fields.annotations(fields.class_of(*owner) or schema))
        holder = _name(keys[:-1], owner[1])
        return f"{key}={value}: unknown key; {holder} takes: {', '.join(names)}{did_you_mean(str(keys[-1]), names)}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        wanted = f"one of: {', '.join(groups[key])}" if key in groups else f"{key}=<value>"
        return f"{key}: missing; give {wanted}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        name = shown(node.get("name")) if isinstance(node, Mapping) else value
        names = list(fields.options(annotation))
        return f"{key}.name={name}: no such option; takes: {', '.join(names)}{did_you_mean(name, names)}"
    if kind in ("dataclass_type", "dataclass_exact_type", "model_attributes_type", "dict_type"):
        wanted = f"choose one of: {', '.join(groups[key])}" if key in groups else "give its values one by one"
        return f"{key}={value}: must be a group of values; {wanted}"
    if kind == "string_type":
        return f"{key}={value}: must be text; write {key}=\"'{value}'\""
    whole = kind == "value_error" and isinstance(node, Mapping)
    return f"{key}: {plain_reason(error)}" if whole else f"{key}={value}: {plain_reason(error)}"


def plain_reason(error: Any) -> str:
    """What is wrong with a value, from pydantic's words."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    reason = error["msg"].replace("Input should be", "must be", 1).partition(", unable to")[0]
    for term, word in PLAIN_WORDS.items():
        reason = reason.replace(term, word)
    return str(reason)


def shown(value: object) -> str:
    """A value as typed on the command line, cut if it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def _name(keys: Sequence[str | int], node: Any) -> str:
    """What to call the owner of a key: the option of its group if it has one, else its own key."""
    if isinstance(node, Mapping) and isinstance(node.get("name"), str) and len(keys) == 1:
        return node["name"]
    return ".".join(map(str, keys)) or "the config"


def _lookup(node: Any, keys: Sequence[str | int]) -> Any:
    for key in keys:
        if isinstance(node, Mapping):
            node = node.get(key)
        elif isinstance(node, list) and str(key).isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node
