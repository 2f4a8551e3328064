"""What people install: one wheel, in which the light client runs on the base install alone."""

from __future__ import annotations

import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LARGEST_BYTES = 15_000_000
"""The built-in pair may weigh 10 MB, the table of words 4; the rest is text."""
PROGRAM = """
import sys
sys.path.append({path!r})
from headgate.client import Client, HeadgateError
try:
    Client("127.0.0.1:{port}").generate("2 + 2 = ?", timeout_s=5)
except HeadgateError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[PurePosixPath]:
    with zipfile.ZipFile(wheel) as archive:
        return [PurePosixPath(name) for name in archive.namelist()]


def test_only_our_names_reach_site_packages(names: list[PurePosixPath]) -> None:
    top = {path.parts[0] for path in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"headgate", "buf"}
    assert not [path for path in names if path.name == "__init__.py" and len(path.parts) == 2]


def test_data_travels_along(names: list[PurePosixPath]) -> None:
    builtin = PurePosixPath("headgate/worker/backends/builtin")
    assert {path.name for path in names if path.suffix == ".proto"} >= {"router.proto", "validate.proto"}
    assert {path.stem for path in names if path.suffix == ".onnx" and builtin in path.parents} >= {
        "small",
        "large",
    }
    bundles = {path.name for path in names if PurePosixPath("headgate/gateway/bundles") in path.parents}
    assert bundles >= {"builtin.bundle", "text.bundle", "text.md"}
    assert PurePosixPath("headgate/router/words.npz") in names


def test_nothing_else_travels_along(wheel: Path, names: list[PurePosixPath]) -> None:
    assert wheel.stat().st_size < LARGEST_BYTES
    suffixes = {path.suffix for path in names if path.parts[0] in ("headgate", "buf")}
    assert suffixes <= {
        ".py",
        ".pyi",
        ".typed",
        ".proto",
        ".onnx",
        ".bundle",
        ".json",
        ".md",
        ".svg",
        ".png",
        ".npz",
        ".txt",
        ".lua",
    }


def test_the_client_runs_on_the_base_install(wheel: Path, tmp_path: Path) -> None:
    """Nothing but the wheel and its base dependencies is on the path; a call goes out."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for member in _with_dependencies("grpcio", "protobuf", "googleapis-common-protos"):
        _link(member, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    program = PROGRAM.format(path=str(tmp_path), port=port)
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "Unavailable\n"), run.stderr


def test_the_base_install_is_three_packages() -> None:
    ours = [Requirement(line) for line in distribution("headgate").requires or []]
    base = {requirement.name for requirement in ours if not requirement.marker}
    assert base == {"grpcio", "protobuf", "googleapis-common-protos"}


def _with_dependencies(*names: str) -> Iterator[Distribution]:
    for name in names:
        found = distribution(name)
        yield found
        needed = (Requirement(line) for line in found.requires or [])
        here = [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
        yield from _with_dependencies(*here)


def _link(member: Distribution, target: Path) -> None:
    for file in member.files or []:
        place = target / file
        if ".." in file.parts or place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(Path(str(member.locate_file(file))))
