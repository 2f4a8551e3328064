"""Runs docs/quickstart.md from top to bottom, as a reader would: every block, in order, in an empty folder.

The README's Python example runs against the same stack.

    ```sh                          a command; it must succeed
    <!-- stays open --> ```sh      a command in a terminal of its own, stopped by Ctrl-C at the end
    <!-- file: NAME --> ```python  a file that the reader saves
    ```text                        what the last command printed; … is anything, alone on a line any lines

Only what would collide with other tests is changed: ports are free ones, and the demo has fewer queries.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/quickstart.md"
BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
ADDRESS = "127.0.0.1:7070"
PATIENCE_S = 240.0
FREE_PORTS = {
    f"HEADGATE_GATEWAY__{one}": "127.0.0.1:0" for one in ("LISTEN", "ADMIN_LISTEN", "METRICS_LISTEN")
}


@dataclass(frozen=True)
class Block:
    """A fenced block and the note above it."""

    note: str
    language: str
    body: str


class Reader:
    """Does what the page says, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environ = _environ()
        self._address = ADDRESS
        self._printed = ""
        self._terminal: subprocess.Popen[str] | None = None

    def follow(self, block: Block) -> None:
        """Runs a command, saves a file or compares an output; AssertionError when the page is wrong."""
        body = block.body.replace(ADDRESS, self._address)
        if block.note.startswith("file: "):
            (self._folder / block.note.removeprefix("file: ")).write_text(body)
        elif block.note == "stays open":
            self._open(body)
        elif block.language == "text":
            assert re.fullmatch(_pattern(body), self._printed), (
                f"{body}\n--- printed instead ---\n{self._printed}"
            )
        else:
            assert block.language == "sh", f"nobody runs a block of {block.language!r}"
            self._run(body)

    def leave(self) -> None:
        """Ctrl-C in the other terminal: it must end by itself and well."""
        assert self._terminal is not None, "the page starts no stack"
        self._terminal.send_signal(signal.SIGINT)
        _, said = self._terminal.communicate(timeout=PATIENCE_S)
        assert self._terminal.returncode in (0, 130), said

    def kill(self) -> None:
        """Leaves nothing behind when a block failed."""
        if self._terminal is not None and self._terminal.poll() is None:
            self._terminal.terminate()
            self._terminal.communicate(timeout=PATIENCE_S)

    def _run(self, command: str) -> None:
        run = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", command],
            cwd=self._folder, env=self._environ, capture_output=True, text=True, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        self._printed = "".join(f"{line.rstrip()}\n" for line in run.stdout.splitlines())

    def _open(self, command: str) -> None:
        self._terminal = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self._folder, env=self._environ | FREE_PORTS, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._terminal.stderr is not None
        said = []
        for line in self._terminal.stderr:
            said.append(line)
            up = re.search(r"headgate is up.*?(127\.0\.0\.1:\d+)", line)
            if up:
                self._address = up.group(1)
                self._environ["HEADGATE_GATEWAY__LISTEN"] = self._address
                return
        raise AssertionError("".join(said))


def _environ() -> dict[str, str]:
    """The user's, without settings of Headgate and without the `make` that may run this test."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HEADGATE_", "MAKE"))}
    return plain | {
        "DEMO": "--queries 40 --seed 1",
        "COLUMNS": "160",
    }


def _installed(venv: Path) -> None:
    """The environment of this test run, with the stamps that say so: `make run` installs nothing."""
    venv.mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.suffix != ".stamp":
            (venv / part.name).symlink_to(part)
    for stamp in ("python.stamp", "run.stamp"):
        (venv / stamp).touch()


def _pattern(shown: str) -> str:
    lines = [
        "(?:.*\n)*" if line == "…" else re.escape(line.rstrip()).replace("…", ".*") + "\n"
        for line in shown.splitlines()
    ]
    return "".join(lines)


def _blocks(text: str) -> list[Block]:
    return [Block(found["note"] or "", found["language"], found["body"]) for found in BLOCK.finditer(text)]


@contextmanager
def _reader(folder: Path) -> Iterator[Reader]:
    for needed in ("Makefile", "pyproject.toml", "requirements"):
        (folder / needed).symlink_to(ROOT / needed)
    _installed(folder / ".venv")
    reader = Reader(folder)
    try:
        yield reader
    finally:
        reader.kill()


def test_every_block_works(tmp_path: Path) -> None:
    blocks = _blocks(PAGE.read_text())
    assert len(blocks) == PAGE.read_text().count("\n```") / 2
    with _reader(tmp_path) as reader:
        for block in blocks:
            reader.follow(block)
        for block in _blocks((ROOT / "README.md").read_text()):
            if block.language == "python":
                reader.follow(Block("file: readme.py", "python", block.body))
                reader.follow(Block("", "sh", ".venv/bin/python readme.py"))
        reader.leave()
