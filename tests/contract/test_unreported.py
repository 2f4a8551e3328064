"""No program of ours lets ONNX Runtime report its use to its maker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.gateway_rig import scrubbed

ROOT = Path(__file__).parents[2]
LOOK = """
import os, sys

class Look:
    def find_spec(self, name, *_):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Look())
"""


@pytest.mark.parametrize(
    "program",
    [
        "import headgate.gateway.__main__",
        "import headgate.worker.__main__, headgate.worker.backends.builtin.engine",
        "import headgate.cli.__main__ as cli; cli.run = None; sys.argv = ['headgate', 'evaluate', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\nimport headgate.router.model",
    ],
    ids=["gateway", "worker", "headgate"],
)
@pytest.mark.parametrize(("told", "heard"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_onnx_runtime_is_told_before_it_is_loaded(program: str, told: dict[str, str], heard: str) -> None:
    environ = {name: value for name, value in scrubbed().items() if name != "ORT_DISABLE_TELEMETRY"}
    run = subprocess.run(
        [sys.executable, "-c", LOOK + program],
        cwd=ROOT, env=environ | told, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert run.stdout.splitlines()[-1] == heard
    assert "None" not in run.stdout.splitlines()
