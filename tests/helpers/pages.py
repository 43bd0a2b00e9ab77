"""The code blocks of a page, and its commands, run as a reader runs them."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launching import variables


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page.read_text())


def commands(page: Path) -> list[str]:
    """The commands of its shell blocks, without their comments."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line.partition(" #")[0].strip() for line in text.splitlines() if line.strip()]


def python(folder: Path, words: Sequence[str], timeout: float = 600) -> str:
    """What Python prints with some words, in a folder; it must end well."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=variables(folder, {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
