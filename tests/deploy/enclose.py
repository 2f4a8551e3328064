"""Becomes the program of a container: a root of its own that is read-only, another user, nothing inherited.

Runs as root in mount, network and process namespaces of its own; its argument is what it is told, as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_NO_NEW_PRIVILEGES = 38
_DIE_WITH_PARENT = 1
_DEVICES = ("null", "zero", "random", "urandom")
_OF_ETC = ("ld.so.cache", "hosts", "nsswitch.conf", "localtime")


def main(told: str) -> None:
    """Never returns."""
    spec = json.loads(told)
    root = Path(spec["root"])
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(root))
    for folder in ("/usr", "/bin", "/lib", "/lib64", "/sbin", sys.base_prefix):
        _show(Path(folder), root / folder.lstrip("/"))
    for place, folder in spec["folders"].items():
        _show(Path(folder), root / place.lstrip("/"))
    for place, folder in spec.get("volumes", {}).items():
        (root / place.lstrip("/")).mkdir(parents=True)
        _mount("--bind", folder, str(root / place.lstrip("/")))
    _etc(root / "etc", spec.get("etc", {}))
    _devices(root / "dev")
    (root / "proc").mkdir()
    _mount("-t", "proc", "proc", str(root / "proc"))
    for place in spec["writable"]:
        (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        size = spec["writable"][place] if isinstance(spec["writable"], dict) else 0
        _mount("-t", "tmpfs", "-o", f"mode=1777,size={size}", "tmpfs", str(root / place.lstrip("/")))
    if spec.get("read_only", True):
        _mount("-o", "remount,ro", str(root))
    _become(spec, root)


def _show(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.exists():
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.touch()
        _mount("--bind", str(source), str(target))
        _mount("-o", "remount,bind,ro", str(target))


def _etc(target: Path, told: dict[str, str]) -> None:
    """The system's files, and what an engine would write in their place."""
    target.mkdir(exist_ok=True)
    for name in _OF_ETC:
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), target / name)
    for name, text in told.items():
        (target / name).write_text(text)


def _devices(target: Path) -> None:
    target.mkdir()
    for name in _DEVICES:
        (target / name).touch()
        _mount("--bind", f"/dev/{name}", str(target / name))


def _become(spec: dict[str, object], root: Path) -> None:
    user, group = (int(part) for part in str(spec["user"]).split(":"))
    os.chroot(root)
    os.chdir(str(spec["folder"]))
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    # Asked for by `unshare` as well, and forgotten by the kernel when the user changes.
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    command = spec["command"]
    environ = spec["environ"]
    assert isinstance(command, list)
    assert isinstance(environ, dict)
    os.execvpe(command[0], command, environ)  # noqa: S606


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
