"""The house's shape: one namespace from three roots, no dumping rooms, every room typed."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMESPACES = [ROOT / root / "headgate" for root in ("protos", "router", "services")]
ROOMS = sorted(room for namespace in NAMESPACES for room in namespace.iterdir() if any(room.glob("*.py")))
SOURCES = sorted(path for namespace in NAMESPACES for path in namespace.rglob("*.py"))


@pytest.mark.parametrize("namespace", NAMESPACES, ids=lambda path: path.parent.name)
def test_the_namespace_has_no_init_file(namespace: Path) -> None:
    """One such file would hide the rooms of the other two roots."""
    assert not list(namespace.glob("__init__.py*"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.name)
def test_every_room_says_that_it_is_typed(room: Path) -> None:
    """In a namespace each package needs a marker of its own, or the users' type checkers ignore it."""
    assert (room / "py.typed").is_file()


@pytest.mark.parametrize(
    "word", ["utils", "util", "helpers", "helper", "common", "misc", "shared", "base_utils"]
)
def test_there_is_no_dumping_room(word: str) -> None:
    assert not [path for path in SOURCES if word in (path.stem, path.parent.name)]


def test_the_three_roots_are_one_package() -> None:
    import headgate

    assert {Path(part).parent.name for part in headgate.__path__} >= {"protos", "router", "services"}
