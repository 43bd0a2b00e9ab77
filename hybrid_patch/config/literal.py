"""Paths, taken as they are: no comma, bracket, quote, `=` or `$` in them means anything to Hydra or OmegaConf."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override, Quote, QuotedString

from hybrid_patch.errors import InputError

PATH_KEYS = ("run", "input", "output", "data.root", "data.statistics", "data.labels", "run_dir")
"""Keys whose values are taken literally. `null` alone still means null (a folder of that name is `./null`)."""

_PATH = re.compile(rf"(\+{{0,2}})({'|'.join(map(re.escape, PATH_KEYS))})=(.*)", re.DOTALL)


def quote(text: str) -> str:
    """A text as a value of Hydra's override grammar that resolves to exactly that text."""
    if text == "???":  # OmegaConf's word for a missing value
        text = "./???"
    escaped = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    return QuotedString(escaped, Quote.single).with_quotes()


def quote_path(argument: str) -> str:
    """`data.root=<path>` with the path quoted for Hydra; an argument without a path key as it is."""
    found = _PATH.fullmatch(argument)
    if found is None or found[3] == "null":
        return argument
    return f"{found[1]}{found[2]}={quote(found[3])}"


def plain_argument(override: Override) -> str:
    """The argument that a parsed override came from, as a person types it: the inverse of `quote_path`."""
    line = (override.input_line or "").lstrip("+")
    value = override.value()
    if override.key_or_group not in PATH_KEYS or not isinstance(value, str):
        return line
    text = re.sub(r"(\\+)\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", value)
    return f"{line.partition('=')[0]}={text}"


def take_paths(arguments: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take a command's own paths from its arguments: by position in the order of `names`, or as `name=<path>`.

    An argument is a positional if it has no `=`, or if what is before its first `=` is no key (`./a=b`, `a b=c`);
    `~key` is none.
    Returns the paths by name, and the other arguments. Raises InputError for a path given twice or one too many.
    """
    paths: dict[str, str] = {}
    others = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in names:
            name = key
        elif (equals or key.startswith("~")) and re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w./@]*", key):
            others.append(argument)
            continue
        else:
            free = [name for name in names if name not in paths]
            if not free:
                raise InputError(f"{argument}: one argument too many; takes: {' '.join(names)}, and key=value")
            name, value = free[0], argument
        if name in paths:
            raise InputError(f"{name}={value}: given twice; before it was {paths[name]}")
        paths[name] = value
    return paths, others


def take_keys(arguments: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The values of a command's own keys, the last of each or its default, and the other arguments."""
    own, others = dict(defaults), []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in own:
            own[key] = value
        else:
            others.append(argument)
    return own, others


def key_of(argument: str) -> str:
    """The key of an override, without what says how it is set: `++a.b=1` and `~a.b` are of `a.b`."""
    return argument.lstrip("+~").partition("=")[0]


def refuse_flags(arguments: Sequence[str], keys: Sequence[str]) -> None:
    """For a command with no flag but --help, before `take_paths`, to which a flag would be a path.

    Raises InputError that names the command's own keys.
    """
    flag = next((argument for argument in arguments if argument.startswith("-")), None)
    if flag is not None:
        raise InputError(f"{flag}: no such flag; takes --help and: {', '.join(keys)}, key=value")


def output_file(paths: Mapping[str, str]) -> Path | None:
    """The file that `output` names, if it does; raises InputError if its folder does not exist."""
    if "output" not in paths:
        return None
    output = Path(paths["output"])
    if not output.absolute().parent.is_dir():
        raise InputError(f"output={output}: there is no folder {output.parent}")
    return output
