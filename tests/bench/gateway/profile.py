"""Where a gateway's time goes: while it serves, by room, and while it starts, by package.

The first is py-spy's, which is no dependency: where it is not installed, the page has no such part.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tests.bench.gateway.stage import Server

SECONDS: Final = 10
RATE_HZ: Final = 250
AREAS: Final = (
    ("brain: the uncertainty model (ONNX Runtime)", r"onnxruntime|router/model\.py|\(model\.py"),
    ("brain: features", r"\(features\.py"),
    ("brain: estimates, policy, decision",
     r"\((bundle|calibrate|policy|decide|cascade|cost)\.py|router/types\.py"),
    ("validation of the request", r"adapters/validation\.py|protovalidate"),
    ("ledger: redis-py", r"redis"),
    ("ledger: the record", r"gateway/records\.py"),
    ("metrics", r"prometheus_client"),
    ("door: keys and decoding", r"gateway/admission\.py|adapters/decoding\.py"),
    ("call of the worker (gRPC's Python side)", r"grpc/aio"),
    ("conductor, servicer, conversion", r"gateway/(?!process)"),
    ("event loop and gRPC's core", r"gateway/process\.py"),
)  # fmt: skip
"""The innermost frame that any of them knows has the sample."""
LEAST_SHARE: Final = 0.02
_MAIN: Final = "gateway/process.py"
_ENTRY: Final = "headgate.gateway.__main__"
_OWN: Final = sys.stdlib_module_names


def program() -> str | None:
    """Where py-spy is, if anywhere."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def sample(server: Server, folder: Path, keep_busy: Callable[[], object]) -> list[tuple[str, float]]:
    """Shares of the event loop's time while `keep_busy` is called again and again; empty without py-spy."""
    spy = program()
    if spy is None:
        return []
    raw = folder / "profile.raw"
    command = [spy, "record", "--rate", str(RATE_HZ), "--duration", str(SECONDS), "--format", "raw",
               "--output", str(raw), "--pid", str(server.process.pid)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recording:
        ended = threading.Event()
        threading.Thread(target=lambda: (recording.wait(), ended.set())).start()
        while not ended.is_set():
            keep_busy()
    return shares(raw.read_text().splitlines()) if recording.returncode == 0 else []


def shares(lines: Iterable[str]) -> list[tuple[str, float]]:
    """Shares by area, the largest first; a line is `outermost;…;innermost count`."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if _MAIN in stack:
            counts[area(stack.split(";"))] += int(count)
    return [(name, count / counts.total()) for name, count in counts.most_common()]


def imports() -> list[tuple[str, float]]:
    """Shares of what a gateway imports, by package, the largest first; `onnxruntime, grpc` are among them."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {_ENTRY}"]
    found = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    return imported(found.stderr.splitlines())


def imported(lines: Iterable[str]) -> list[tuple[str, float]]:
    """Shares of at least 2 %; a line is `import time: microseconds alone | with what it imports | name`."""
    counts: Counter[str] = Counter()
    for line in lines:
        alone, _, rest = line.removeprefix("import time:").partition("|")
        if alone.strip().isdigit():
            name = rest.partition("|")[2].strip()
            counts[_package(name)] += int(alone)
    ranked = [(name, count / counts.total()) for name, count in counts.most_common()]
    shown = [(name, share) for name, share in ranked if share >= LEAST_SHARE]
    return [*shown, ("the rest, in small pieces", 1 - sum(share for _, share in shown))]


def _package(name: str) -> str:
    top = name.partition(".")[0]
    return "Python's own library" if top.lstrip("_") in _OWN or top in _OWN else f"`{top}`"


def area(frames: list[str]) -> str:
    """Where a sample belongs."""
    for frame in reversed(frames):
        for name, pattern in AREAS:
            if re.search(pattern, frame):
                return name
    return "elsewhere"
