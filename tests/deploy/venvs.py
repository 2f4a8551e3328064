"""The venv of each image, made by the image's own script from its hashed list."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

from tests.deploy.images import ROOT, listed

INSTALL = ROOT / "deploy/docker/install.sh"


def wheel(directory: Path) -> Path:
    """Of this checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(directory.glob("*.whl"))


def make(role: str, ours: Path, folder: Path, like: Path | None = None) -> Path:
    """Installs a role's list in a clean venv.

    What `like`, another such venv, has of the list, pip has checked against the same hashes already: it is
    linked from there, and pip installs what is left. That keeps the short form short.
    """
    if like is not None:
        _venv(folder)
        _link(like, folder, listed((ROOT / f"requirements/{role}.txt").read_text()))
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}:{environ['PATH']}"
    run = subprocess.run(
        [INSTALL, ROOT / f"requirements/{role}.txt", ours, folder],
        env=environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    # In an image it is made where it stays.
    script = folder / "bin/headgate"
    script.write_text(script.read_text().replace(f"{folder}/bin/", "/app/bin/"))
    return folder


def held(venv: Path) -> dict[str, str]:
    """Names and versions of what is installed."""
    return {one.name.lower().replace("_", "-").replace(".", "-"): one.version for one in _in(venv)}


def megabytes(venv: Path) -> float:
    """What it takes on disk, in 10⁶ bytes."""
    return sum(path.lstat().st_blocks * 512 for path in venv.rglob("*")) / 1e6


def _venv(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)


def _in(venv: Path) -> list[Distribution]:
    return list(distributions(path=[str(next(venv.glob("lib/python3.*/site-packages")))]))


def _link(source: Path, target: Path, wanted: dict[str, str]) -> None:
    have = held(source)
    for one in _in(source):
        name = one.name.lower().replace("_", "-").replace(".", "-")
        if wanted.get(name) != have[name]:
            continue
        for file in one.files or []:
            old = Path(str(one.locate_file(file))).resolve()
            new = target / old.relative_to(source)
            new.parent.mkdir(parents=True, exist_ok=True)
            if not new.exists():
                os.link(old, new)
