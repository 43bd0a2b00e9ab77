"""Identifiers and prose use the terms of docs/glossary.md, and not those that they replaced."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

IDENTIFIERS = frozenset(
    [
        "places",
        "around",
        "place_weights",
        "take",
        "keep",
        "kept",
        "there",
        "seen",
        "measured",
        "present",
        "known",
        "counted",
        "own",
        "Draw",
        "Share",
        "Stack",
        "query_key_value",
        "cut",
        "cut_again",
        "Mirror",
        "Guarded",
        "say",
        "Standing",
        "goes_on",
        "idle",
        "apart",
        "worth",
        "found",
        "one",
        "Member",
        "Request",
        "Plan",
        "Scene",
    ]
)
"""Names that say too little, or that the field calls otherwise."""
PREFIXES = ("most_", "usual_")
LIBRARIES = frozenset({"most_common"})
"""Names that are not ours."""
PHRASES = (
    "would do",
    "judges every member",
    "freezes it",
    "nobody has to watch",
    "the way of the data",
    "what was seen on",
    "a look in passing",
    "words that are left",
    "can tear",
    "what is left of",
    "what stands where",
    "unburied",
    "each has other samples",
    "what is known to change",
    "to take or not",
    "lies on no other",
    "that can be gone on with",
    "as it stands",
    "is held to",
    "are held to",
)
PROSE = (".md", ".yaml", ".toml", ".j2", ".py")
SOURCES = sorted(path for folder in ("hybrid_patch", "launch", "tests") for path in (ROOT / folder).rglob("*.py"))
TEXTS = sorted(
    path
    for folder in (".", "hybrid_patch", "launch", "tests", "conf", "docs")
    for path in ((ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*"))
    if path.is_file()
    and (path.suffix in PROSE or path.name == "Makefile")
    and path != Path(__file__)
    and "notes" not in path.relative_to(ROOT).parts
)


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and name of everything that a file names itself or looks up."""
    for node in ast.walk(tree):
        for field in ("id", "name", "arg", "attr"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield getattr(node, "lineno", 0), name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_identifier_is_a_retired_name(path: Path) -> None:
    retired = [
        f"{line}: {name}"
        for line, name in identifiers(ast.parse(path.read_text()))
        if name not in LIBRARIES and (name.lstrip("_") in IDENTIFIERS or name.lstrip("_").lower().startswith(PREFIXES))
    ]
    assert not retired


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_sentence_is_in_retired_english(path: Path) -> None:
    text = " ".join(path.read_text().lower().split())
    assert not [phrase for phrase in PHRASES if re.search(rf"\b{re.escape(phrase)}\b", text)]


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?ms)^```.*?^```", "", page.read_text())):
            path, _, anchor = target.partition("#")
            if target.startswith(("http:", "https:")):
                continue
            file = (page.parent / path) if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")
    assert not broken


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}
