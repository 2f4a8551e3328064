"""Backends by name: what installed packages register under the entry-point group `headgate.backends`."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import cast

from headgate.worker.backends.base import Backend, NotLoadableError

GROUP = "headgate.backends"


def names() -> list[str]:
    """Those installed here; none is imported."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def find(name: str) -> type[Backend]:
    """The class of a backend, imported now. Raises NotLoadableError: unknown name, or a missing extra."""
    registered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in registered:
        raise NotLoadableError(f"there is no backend {name!r}; installed: {', '.join(names()) or 'none'}")
    try:
        return cast(type[Backend], registered[name].load())
    except ModuleNotFoundError as missing:
        raise NotLoadableError(
            f"backend {name!r} needs the module {missing.name!r}, which is not installed; "
            'pip install "headgate[server,cpu]" brings what the built-in backends need'
        ) from missing
