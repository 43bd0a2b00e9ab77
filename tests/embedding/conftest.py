"""A run that all tests here embed with, and the command in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scenes import make_run

from hybrid_patch import embed as embed_command

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command with arguments: its exit code, and what it wrote to stderr."""

    def called(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["embed", *arguments])
        try:
            embed_command.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return called
