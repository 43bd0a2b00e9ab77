"""Paths, taken as they are: no comma, bracket, quote, `=` or `$` in them means anything to Hydra or OmegaConf."""

import re

from hydra.core.override_parser.types import Override, Quote, QuotedString

PATH_KEYS = ("run", "input", "output", "data.root", "data.statistics", "data.labels", "run_dir")
"""Keys whose values are taken literally. `null` alone still means null (a folder of that name is `./null`)."""

_PATH = re.compile(rf"(\+{{0,2}})({'|'.join(map(re.escape, PATH_KEYS))})=(.*)", re.DOTALL)


def quote(text: str) -> str:
    """A text as a value of Hydra's override grammar that resolves to exactly that text."""
    if text == "???":  # OmegaConf's word for a missing value
        text = "./???"
    escaped = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
    return QuotedString(escaped, Quote.single).with_quotes()


def quote_path(argument: str) -> str:
    """`data.root=<path>` with the path quoted for Hydra; an argument without a path key as it is."""
    match = _PATH.fullmatch(argument)
    if match is None or match[3] == "null":
        return argument
    return f"{match[1]}{match[2]}={quote(match[3])}"


def plain_argument(override: Override) -> str:
    """The argument that a parsed override came from, as a person types it: the inverse of `quote_path`."""
    line = (override.input_line or "").lstrip("+")
    value = override.value()
    if override.key_or_group not in PATH_KEYS or not isinstance(value, str):
        return line
    text = re.sub(r"(\\+)\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", value)
    return f"{line.partition('=')[0]}={text}"


def key_of(argument: str) -> str:
    """The key of an override, without what says how it is set: `++a.b=1` and `~a.b` are of `a.b`."""
    return argument.lstrip("+~").partition("=")[0]
