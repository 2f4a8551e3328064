from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from headgate.local import guard

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def start(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, str(directory)], stdin=subprocess.PIPE, process_group=0
    )


def member(watcher: subprocess.Popen[bytes], source: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, process_group=watcher.pid
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_when_the_supervisor_is_gone_the_whole_group_ends_and_its_folder_with_it(tmp_path):
    directory = tmp_path / "stack"
    directory.mkdir()
    (directory / "valkey.sock").touch()
    watcher = start(directory)
    polite, deaf = member(watcher, SLEEP), member(watcher, DEAF)
    assert watcher.poll() is None
    watcher.stdin.close()
    assert polite.wait(20) < 0
    assert deaf.wait(20) < 0
    assert watcher.wait(20) < 0
    assert not directory.exists()
