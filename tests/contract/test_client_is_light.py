"""`pip install headgate` is the light client: it imports grpcio and protobuf, and nothing of the server."""

from __future__ import annotations

import json
import subprocess
import sys

ALLOWED = ("grpc", "google.protobuf", "google.rpc", "google._upb", "headgate.client", "headgate.v1", "buf")
PARENTS = {"google", "headgate"}
# grpcio's own: its compiled parts, its dependency, and packages that it imports when they happen to be there.
OF_GRPC = ("cython_runtime", "_cython", "typing_extensions", "grpc_health", "grpc_reflection", "grpc_status")

PROGRAM = """
import json, sys
before = set(sys.modules)
import headgate.client
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported() -> list[str]:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def is_allowed(module: str) -> bool:
    top = module.partition(".")[0]
    return (
        top in sys.stdlib_module_names
        or top.startswith(OF_GRPC)
        or module in PARENTS
        or any(module == room or module.startswith(f"{room}.") for room in ALLOWED)
    )


def test_the_client_imports_nothing_of_the_server():
    modules = imported()
    assert "headgate.client.aio" in modules
    assert [module for module in modules if not is_allowed(module)] == []


def test_no_command_waits_for_the_numbers_of_another_one():
    """numpy alone takes a tenth of a second of each `headgate --help`."""
    program = "import sys, headgate.cli.app; print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_a_base_install_gets_one_sentence_from_the_script():
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"typer", "rich", "pydantic", "yaml", "structlog", "click"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from headgate.cli.__main__ import main
sys.exit(main())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert 'pip install "headgate[server,cpu,embedded]"' in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_a_gateway_without_an_onnx_runtime_is_one_sentence():
    """As after `pip install "headgate[server]"`: the brain needs one, whatever the workers serve."""
    program = """
import runpy, sys
sys.modules["onnxruntime"] = None
runpy.run_module("headgate.gateway", run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    said = run.stderr.strip().splitlines()
    assert said == ['headgate gateway: onnxruntime is not installed; pip install "headgate[server,cpu]"']


def test_a_worker_on_a_base_install_is_one_sentence():
    program = """
import runpy, sys
sys.modules["structlog"] = None
runpy.run_module("headgate.worker", run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    said = run.stderr.strip().splitlines()
    assert said == ['headgate worker: structlog is not installed; pip install "headgate[server,cpu]"']
