"""Follows a page's commands as an operator would, in a clone; stand_in.py stands for what is not here.

A program that is neither among `TOOLS` nor stood in for is not found, so that a new one needs a thought.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.deploy.images import ROLES, ROOT

STOOD_IN = ("docker", "kubectl", "kind")
TOOLS = (
    "awk", "bash", "cat", "chmod", "dirname", "git", "grep", "head", "make", "mkdir", "mktemp", "mv", "od",
    "openssl", "rm", "sed", "sh", "touch", "tr",
)  # fmt: skip
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:docker|kubectl|make|headgate|python|\.venv/bin/python) [^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: shell where no language is named."""

    language: str
    body: str


def blocks(page: str) -> list[Block]:
    """All of a page's text."""
    found = [Block(one["language"], one["body"]) for one in _BLOCK.finditer(page)]
    assert len(found) == page.count("```") / 2
    return found


def inline(page: str) -> list[str]:
    """Commands within the sentences."""
    return [" ".join(one.split()) for one in _INLINE.findall(_BLOCK.sub("", page))]


class Reader:
    """Runs commands in a folder that looks like a clone with `make setup` done."""

    def __init__(self, folder: Path, running: Mapping[str, Any] | None = None) -> None:
        """`running` says how to enter containers: {name: {"component", "enter", "environ"}}."""
        self.clone, self.state = folder / "clone", folder / "state"
        self.state.mkdir()
        (self.state / "running.json").write_text(json.dumps(running or {}))
        _clone(self.clone)
        programs = folder / "programs"
        programs.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"needs {tool}"
            (programs / tool).symlink_to(found)
        for one in STOOD_IN:
            _script(programs / one, f'exec {shlex.quote(sys.executable)} -m tests.deploy.stand_in {one} "$@"')
        _script(programs / "sleep", "exit 0")
        self._environ = {
            "PATH": str(programs), "HOME": str(folder), "STAND_IN": str(self.state),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1",
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """As bash does, which ends at the first line that fails."""
        return subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", command],
            cwd=self.clone, env=self._environ, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def fault(self, command: str) -> str:
        """What was wrong with it; empty where nothing was and each line of a stood-in program was reached."""
        told, faults = len(self.told()), len(self.faults())
        run = self.run(command)
        if run.returncode or len(self.faults()) > faults:
            return run.stderr or f"it ended with {run.returncode}"
        lines = re.findall(rf"^\s*(?:{'|'.join(STOOD_IN)})\b", command, re.MULTILINE)
        return "" if len(self.told()) - told >= len(lines) else "not every line was reached"

    def told(self) -> list[str]:
        """The commands that a stood-in program found good."""
        return self._kept("told")

    def faults(self) -> list[str]:
        """Those that it did not."""
        return self._kept("faults")

    def _kept(self, name: str) -> list[str]:
        kept = self.state / name
        return kept.read_text().splitlines() if kept.exists() else []


def faults(page: str, folder: Path) -> list[str]:
    """What is wrong with a page's commands; what comes after a wrong block may need it, and is not run."""
    reader = Reader(folder)
    for block in blocks(page):
        if not block.language and (fault := reader.fault(block.body)):
            return [f"{block.body}{fault}"]
    return sentence_faults(page, reader)


def sentence_faults(page: str, reader: Reader) -> list[str]:
    """The same of those within its sentences."""
    return [f"{one}: {fault}" for one in inline(page) if (fault := _inline_fault(one, reader))]


def _inline_fault(command: str, reader: Reader) -> str:
    program, word, *_ = words = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return "" if word in targets else f"make has no target {word}"
    if program.endswith("python") and word != "-m":
        return "" if (ROOT / word).is_file() else f"there is no {word}"
    if program in STOOD_IN:
        return reader.fault(command)
    if program.endswith("python") and len(words) == 3:
        return "" if find_spec(words[2]) else f"there is no module {words[2]}"
    return reader.fault(shlex.join(["docker", "exec", "GATEWAY", *words]))


def _clone(folder: Path) -> None:
    folder.mkdir()
    for name in (".git", "Makefile", "docker-compose.yml", "pyproject.toml", "requirements"):
        (folder / name).symlink_to(ROOT / name)
    ignored = shutil.ignore_patterns("local", "local.*", "__pycache__")
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=ignored)
    venv = folder / ".venv"
    venv.mkdir()
    (venv / "bin").symlink_to(Path(sys.prefix) / "bin")
    for name in ("python", "run", "torch", "test"):
        (venv / f"{name}.stamp").touch()
    # Bills of materials are test_images.py's, and take long.
    bills = folder / "build/sbom"
    bills.mkdir(parents=True)
    for role in ROLES:
        (bills / f"{role}.cdx.json").touch()


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
