"""The installed `headgate` as a user runs it: a process with its own temporary folder and free ports."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

PATIENCE_S = 90.0
# Prices of its own, so that these tests need no measured ones.
CONFIG = """\
version: 1
pool:
  small: {source: small, price: {input_nanousd: 10000000, output_nanousd: 20000000}}
  large: {source: large, price: {input_nanousd: 90000000, output_nanousd: 180000000}}
gateway:
  open: true
  listen: 127.0.0.1:0
  admin_listen: 127.0.0.1:0
  metrics_listen: 127.0.0.1:0
  lame_duck_s: 0
  drain_s: 2
"""


class Headgate:
    """A running `headgate` command: its lines on stderr, its processes, its temporary folder."""

    def __init__(self, arguments: tuple[str, ...], home: Path) -> None:
        self.home = home
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headgate.cli", *arguments],
            cwd=home,
            env={name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}
            | {"TMPDIR": str(home), "COLUMNS": "400"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()

    def says(self, pattern: str) -> re.Match[str]:
        """The first line on stderr, past or future, that matches."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._news:
            assert self._news.wait_for(found, PATIENCE_S), f"never said {pattern!r}: {self.lines[-20:]}"
            match = found()
        assert match is not None
        return match

    @property
    def address(self) -> str:
        return self.says(r"headgate is up: gRPC (\S+),")[1]

    def descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def child(self, *words: str) -> psutil.Process | None:
        """The descendant whose command line has all `words`."""
        for process in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if set(words) <= set(process.cmdline()):
                    return process
        return None

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)

    def left_behind(self) -> list[str]:
        return [path.name for path in self.home.glob("headgate-*")]


@pytest.fixture
def config() -> str:
    """A config on free ports."""
    return CONFIG


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short name: a unix socket's path has room for about a hundred bytes."""
    folder = Path(tempfile.mkdtemp(prefix="hg"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Headgate]]:
    """Starts a command; whatever is left of it at the end is killed."""
    running: list[Headgate] = []

    def run(*arguments: str) -> Headgate:
        running.append(Headgate(arguments, home))
        return running[-1]

    yield run
    for headgate in running:
        for process in [*headgate.descendants(), headgate.process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        headgate.process.communicate()


@pytest.fixture
def up(home: Path, start: Callable[..., Headgate]) -> Callable[..., Headgate]:
    """Starts `headgate up` with CONFIG and returns when it says that it is up."""

    def run(config: str = CONFIG) -> Headgate:
        (home / "headgate.yaml").write_text(config, encoding="utf-8")
        headgate = start("up")
        assert headgate.address
        return headgate

    return run


def until(condition: Callable[[], object]) -> None:
    """Waits for a condition that no event announces."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, "the condition never came true"
        time.sleep(0.02)


@pytest.fixture(name="until")
def _until() -> Callable[[Callable[[], object]], None]:
    return until
