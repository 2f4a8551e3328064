"""The import contracts bite: each one finds a violation planted in a copy of the sources.

`make check` runs them on the real tree; a contract that names a wrong module would pass there for ever.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = ("router", "services", "protos", "protos/third_party")

PLANTED = {
    "gateway meets worker": (
        "services/headgate/gateway/planted.py",
        "import headgate.worker.slots",
        "Services",
    ),
    "adapters look up": ("services/headgate/adapters/planted.py", "import headgate.gateway", "Services"),
    "an undeclared room": ("services/headgate/attic/__init__.py", "", "Services"),
    "errors know cost": ("router/headgate/router/errors.py", "import headgate.router.cost", "one line"),
    "an undeclared brain file": ("router/headgate/router/planted.py", "", "one line"),
    "the brain knows the wire": (
        "router/headgate/router/cost.py",
        "import headgate.v1.types_pb2",
        "Services",
    ),
    "a clock in the brain": ("router/headgate/router/policy.py", "import time", "touches nothing"),
    "torch in the brain": (
        "router/headgate/router/model.py",
        "def fit():\n    import torch",
        "touches nothing",
    ),
    "a heavy client": ("services/headgate/client/planted.py", "import pydantic", "client is light"),
    "Redis in the gateway": ("services/headgate/gateway/planted.py", "import redis.asyncio", "Redis"),
    "Celery in the gateway": ("services/headgate/gateway/planted.py", "import celery", "Celery"),
    "jobs meet the gateway": (
        "services/headgate/jobs/planted.py",
        "import headgate.gateway",
        "Services",
    ),
    "torch in a worker": ("services/headgate/worker/planted.py", "import torch", "Torch"),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    house = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", house)
    for root in ("router", "services", "protos"):
        shutil.copytree(ROOT / root, house / root, ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
    return house


def _broken(house: Path) -> list[str]:
    """The broken contracts. Without `site`, because an editable install would add the real tree."""
    program = "from importlinter.cli import lint_imports_command as lint; lint()"
    path = os.pathsep.join([*(str(house / root) for root in ROOTS), sysconfig.get_path("purelib")])
    run = subprocess.run(
        [sys.executable, "-S", "-c", program, "--no-cache"],
        cwd=house, env={"PYTHONPATH": path, "COLUMNS": "400"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Contracts:" in run.stdout, run.stdout + run.stderr
    return [line for line in run.stdout.splitlines() if " BROKEN" in line]


def test_the_tree_keeps_them(house: Path) -> None:
    assert _broken(house) == []


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_violation_is_found(house: Path, what: str) -> None:
    name, line, contract = PLANTED[what]
    file = house / name
    before = file.read_text() if file.exists() else None
    file.parent.mkdir(exist_ok=True)
    file.write_text((before or "from __future__ import annotations\n") + f"\n{line}\n")
    try:
        broken = _broken(house)
    finally:
        file.unlink() if before is None else file.write_text(before)
    assert any(contract in one for one in broken), broken
