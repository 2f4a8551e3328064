"""The brain is pure: numpy and onnxruntime, no clock, randomness, files, network or logging."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

BRAIN = Path(__file__).parents[2] / "router" / "headgate" / "router"
MODULES = sorted(path for path in BRAIN.glob("*.py"))
ALLOWED = {
    "__future__", "ast", "bisect", "collections", "copy", "dataclasses", "decimal", "enum", "functools",
    "hashlib", "headgate", "io", "itertools", "json", "math", "numpy", "onnxruntime",
    "operator", "re", "typing", "zipfile", "zlib",
}  # fmt: skip
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}
HEAVY = (
    "torch",
    "sklearn",
    "scipy",
    "onnx",
    "pandas",
    "grpc",
    "google.protobuf",
    "redis",
    "pydantic",
    "mapie",
)


def imports(tree: ast.AST) -> set[str]:
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_there_is_a_brain_to_look_at() -> None:
    assert {"decide", "cascade", "bundle", "features", "policy"} <= {path.stem for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_what_a_pure_library_may(path: Path) -> None:
    found = imports(ast.parse(path.read_text(encoding="utf-8")))
    assert {name.partition(".")[0] for name in found} <= ALLOWED
    assert all(
        name == "headgate" or name.startswith("headgate.router")
        for name in found
        if name.startswith("headgate")
    )
    assert not any(name.startswith("headgate.router.offline") for name in found)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_calls_no_clock_no_dice_no_files(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & FORBIDDEN_CALLS
    assert not {
        name for name in attributes if name.startswith(("np.random", "np.fromfile", "np.memmap", "io.open"))
    }


def test_importing_the_brain_loads_nothing_heavy() -> None:
    names = [f"headgate.router.{path.stem}" for path in MODULES if path.stem != "__init__"]
    program = (
        f"import sys\nimport {', '.join(names)}\n"
        f"print(*sorted(m for m in sys.modules if m in {HEAVY!r} or m.startswith('headgate.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = done.stdout.split()
    assert set(loaded) == {"headgate.router", *names}


@pytest.mark.parametrize("command", ["train", "certify", "evaluate"])
def test_a_command_loads_nothing_heavy_before_it_needs_it(command: str) -> None:
    program = (
        f"import sys\nfrom headgate.cli.app import run\nassert run([{command!r}, '--help'], {{}}) == 0\n"
        "print(*{'torch', 'sklearn', 'scipy', 'onnx', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr.split() == []
    assert "--outcomes" in done.stdout


def test_torch_has_no_part_in_training_the_router() -> None:
    """It has one in `words`, which looks at single words with a sentence encoder, for the semantic cache."""
    for path in set((BRAIN / "offline").glob("*.py")) - {BRAIN / "offline" / "words.py"}:
        assert "torch" not in {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}
