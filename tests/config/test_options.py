"""Options as dataclasses: what a command line gives, and the one line of what is wrong with it."""

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_patch.config.command import help_text
from hybrid_patch.config.field_types import Count
from hybrid_patch.config.options import (
    Flag,
    Items,
    Option,
    OutputFile,
    Overrides,
    Positional,
    Seconds,
    parse,
)
from hybrid_patch.errors import InputError, require_extra

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.text(st.sampled_from("\\\\${}'\"[](),:= a.~"), min_size=1),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    run: Annotated[Path, Positional("DIR", "the run")]
    output: Annotated[OutputFile | None, Positional("FILE", "the report")] = None
    dims: Annotated[Count | Literal["full"], Option("N|full", "numbers per pixel")] = 64
    step: Annotated[Seconds | None, Option("SECONDS", "of a step")] = None
    date: Annotated[datetime.date | None, Option("2024-05-31", "of the scene")] = None
    reduce: Annotated[Literal["pca", "random"], Option("", "to fewer numbers")] = "pca"
    cog: Annotated[bool, Option("", "with overviews")] = True
    axes: Annotated[Items[str], Option("[a,b]", "what was swept over")] = ("patch", "seed")
    define: Annotated[dict[str, Items[str]], Option("NAME=[a,b]", "a variant")] = field(default_factory=dict)
    watch: Annotated[bool, Flag("--watch", "again and again")] = False
    conf: Annotated[Path | None, Flag("--conf", "groups", "DIR")] = None
    overrides: Annotated[tuple[str, ...], Overrides({"data.KEY=VALUE": "of the data"}, groups=("data",))] = ()


@dataclass(frozen=True, kw_only=True)
class Many:
    folders: Annotated[tuple[Path, ...], Positional("FOLDER", "the runs")]
    overrides: Annotated[tuple[str, ...], Overrides({"key=value": "an override"})] = ()


def test_every_kind_of_option(tmp_path: Path) -> None:
    words = ["my run", "dims=full", "step=.5", "date=2024-05-31", "reduce=random", "cog=false", "axes=[a, b.c,]"]
    more = ["define.mine=[patch=hybrid,x=[1,2]]", "--watch", f"{tmp_path}/a=b", "data.tile=[1,2]", "+data.x=3"]
    assert parse(Options, [*words, *more]) == Options(
        run=Path("my run"),
        output=tmp_path / "a=b",
        dims="full",
        step=0.5,
        date=datetime.date(2024, 5, 31),
        reduce="random",
        cog=False,
        axes=("a", "b.c"),
        define={"mine": ("patch=hybrid", "x=[1,2]")},
        watch=True,
        overrides=("data.tile=[1,2]", "+data.x=3"),
    )
    assert parse(Options, ["run=x=y"]) == Options(run=Path("x=y"))
    for flag in (["--conf", "a b"], ["--conf=a b"]):
        assert parse(Options, ["x", *flag]) == Options(run=Path("x"), conf=Path("a b"))
    assert parse(Many, ["a", "./b=c", "~data.x", "+seed=1", "c"]) == Many(
        folders=(Path("a"), Path("b=c"), Path("c")), overrides=("~data.x", "+seed=1")
    )


@given(TEXT)
def test_paths_are_literal(text: str) -> None:
    assert parse(Options, [f"run={text}"]) == Options(run=Path(text))


@given(st.lists(TEXT.filter(lambda text: "=" not in text and text[0] not in "~-"), min_size=1, max_size=3))
def test_positionals_are_literal(texts: list[str]) -> None:
    assert parse(Many, [*texts, "seed=1"]) == Many(folders=tuple(map(Path, texts)), overrides=("seed=1",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dims=3", "run: missing; give run=DIR"),
        ("r dims=x", "dims=x: must be a whole number or 'full'"),
        ("r dims=0", "dims=0: must be greater than or equal to 1 or 'full'"),
        ("r step=0", "step=0: must be greater than 0"),
        ("r step=inf", "step=inf: must be a finite number"),
        ("r date=31.5.", "date=31.5.: must be a date, like 2024-05-31*"),
        ("r reduce=pac", "reduce=pac: must be 'pca' or 'random' (did you mean pca?)"),
        ("r cog=flase", "cog=flase: must be true or false (did you mean false?)"),
        ("r axes=patch", "axes=patch: not a list; write it as [a,b]"),
        ("r define.mine=x", "define.mine=x: not a list; write it as [a,b]"),
        ("r define=[x]", "define=[x]: unknown key; takes: run, output, *, data.KEY"),
        ("r output=/no/such/file", "output=/no/such/file: there is no folder /no/such"),
        ("r dim=3", "dim=3: unknown key; takes: run, output, dims, * (did you mean dims?)"),
        ("r seed=3", "seed=3: unknown key; takes: run, output, *"),
        ("r --wacth", "--wacth: no such flag; takes: --watch, --conf, --help, --version (did you mean --watch?)"),
        ("r --conf", "--conf: without a value; give --conf DIR"),
        ("r --conf=a --conf b", "--conf=b: given twice; before it was a"),
        ("r --watch=yes", "--watch=yes: no such flag; *"),
        ("r a b", "b: one argument too many; takes: run, output, *"),
        ("r run=s", "run=s: given twice; before it was r"),
        ("r dims=3 dims=4", "dims=4: given twice; before it was 3"),
        ("r define.a=[b] define.a=[c]", "define.a=[c]: given twice; before it was [b]"),
    ],
)
def test_bad_input_is_one_line(line: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(Options, line.split())
    start, *rest = message.split("*")
    assert str(error.value).startswith(start)
    assert all(part in str(error.value) for part in rest)
    assert rest or str(error.value) == message


def test_help_is_made_from_the_options() -> None:
    text = help_text("hybrid-patch try", "Try it.\n\nTwice.\n", Options)
    assert text.startswith(
        "usage: hybrid-patch try run=DIR [output=FILE] [key=value ...] [options]\n\nTry it.\n\nTwice.\n"
    )
    for line in (
        "run=DIR                   the run",
        "dims=N|full               numbers per pixel (default: 64)",
        "reduce=pca|random         to fewer numbers (default: pca)",
        "cog=true|false            with overviews (default: true)",
        "axes=[a,b]                what was swept over (default: [patch,seed])",
        "define.NAME=[a,b]         a variant",
        "--watch                   again and again",
        "--conf DIR                groups",
        "data.KEY=VALUE            of the data",
    ):
        assert re.search(rf"^  {re.escape(line)}$", text, re.MULTILINE), line


def test_a_missing_extra_is_named() -> None:
    require_extra("geo", "json", "re")
    with pytest.raises(InputError, match=r"^no_such_thing: not installed; pip install 'hybrid_patch\[geo\]'$"):
        require_extra("geo", "json", "no_such_thing")
