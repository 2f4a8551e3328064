from __future__ import annotations

import shlex
import stat
from pathlib import Path

import pytest

from headgate.cli.up import _folder


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / "my bin" / "headgate"
    made.parent.mkdir()
    made.touch(stat.S_IRWXU)
    return made


def test_what_to_try_is_called_as_this_program_was(program: Path) -> None:
    assert _folder(".venv/bin/headgate", {"PATH": str(program.parent)}) == ".venv/bin/"
    assert shlex.split(f"{_folder(str(program), {})}headgate") == [str(program)]


def test_what_path_finds_needs_no_folder(program: Path) -> None:
    assert _folder(str(program), {"PATH": str(program.parent)}) == ""
    assert _folder("headgate", {}) == ""


def test_a_module_is_no_program_to_try() -> None:
    assert _folder("/lib/headgate/cli/__main__.py", {}) == ""
