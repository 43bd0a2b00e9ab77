"""Paths are taken as they are, whatever is in their names."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hybrid_patch.config.compose import compose
from hybrid_patch.config.overrides import LITERAL_KEYS, plain_argument, quote_path

HOSTILE = [
    "with space",
    " leading and trailing ",
    "comma,separated",
    "[brackets]",
    "{braces: 1}",
    "(round)",
    "key=value",
    "single'quote",
    'double"quote',
    "'quoted'",
    "back\\slash",
    "trailing\\",
    "$HOME",
    "${data.tile}",
    "\\${data.tile}",
    "\\\\${oc.env:HOME}",
    "${",
    "~",
    "a:b",
    "été 北京 🌾",
    "new\nline",
    "tab\t",
    "???",
    "true",
    "12",
    "1,2",
    "choice(a,b)",
    "#hash",
    "%percent",
    "a;b&c|d>e",
    "-dash",
    "*",
    "null ",
]

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.text(st.sampled_from("\\\\${}'\"[](),:= a.~"), min_size=1),
).filter(lambda text: text not in ("null", "???"))


def resolved(override: str) -> object:
    """What Hydra and OmegaConf make of an override's value."""
    parsed = OverridesParser.create().parse_override(override)
    assert not parsed.is_sweep_override()
    config = OmegaConf.create({"value": "before"})
    OmegaConf.update(config, "value", parsed.value(), merge=True, force_add=True)
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)["value"]  # type: ignore[index,call-overload]


@given(TEXT, st.sampled_from(LITERAL_KEYS), st.sampled_from(["", "+", "++"]))
def test_any_text_comes_through_unchanged(text: str, key: str, plus: str) -> None:
    assert resolved(quote_path(f"{plus}{key}={text}")) == text


@given(TEXT, st.sampled_from(LITERAL_KEYS))
def test_an_argument_comes_back_as_it_was_typed(text: str, key: str) -> None:
    parsed = OverridesParser.create().parse_override(quote_path(f"{key}={text}"))
    assert plain_argument(parsed) == f"{key}={text}"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_through_unchanged(name: str) -> None:
    assert resolved(quote_path(f"data.root={name}")) == name.replace("???", "./???")


@pytest.mark.parametrize("name", HOSTILE[::3])
def test_folders_with_hostile_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    config = compose(["data=rasters", f"data.root={name}", f"run_dir={folder}/run"])
    assert Path(config.data.root).samefile(folder)  # type: ignore[attr-defined]
    assert config.run_dir == f"{folder}/run"


def test_null_stays_null_and_a_folder_of_that_name_has_another() -> None:
    assert compose(["run_dir=null"]).run_dir is None
    assert compose(["run_dir=./null"]).run_dir == "./null"


def test_other_keys_keep_hydras_grammar() -> None:
    assert quote_path("seed=1,2") == "seed=1,2"
    assert quote_path("data.rooted=a,b") == "data.rooted=a,b"
    assert compose(["optimizer.lr=${optimizer.beta1}"]).optimizer.lr == 0.9
