"""Side rooms stay small enough to replace: at most five methods, each port with an in-memory twin."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from headgate.adapters import memory, ports
from headgate.worker.backends import base

MOST_METHODS = 5


def _protocols(module: ModuleType) -> list[type]:
    classes = (member for _, member in inspect.getmembers(module, inspect.isclass))
    return [
        one for one in classes if getattr(one, "_is_protocol", False) and one.__module__ == module.__name__
    ]


def _methods(port: type) -> dict[str, inspect.Signature]:
    functions = inspect.getmembers(port, inspect.isfunction)
    return {name: inspect.signature(function) for name, function in functions if not name.startswith("_")}


PORTS = _protocols(ports)


def _name(port: type) -> str:
    return port.__name__


@pytest.mark.parametrize("port", [*PORTS, *_protocols(base)], ids=_name)
def test_a_port_has_few_methods(port: type) -> None:
    assert 1 <= len(_methods(port)) <= MOST_METHODS


@pytest.mark.parametrize("port", PORTS, ids=_name)
def test_a_port_has_a_twin_in_memory(port: type) -> None:
    """Same methods, same parameters."""
    wanted = {name: list(signature.parameters) for name, signature in _methods(port).items()}
    classes = (member for _, member in inspect.getmembers(memory, inspect.isclass))
    offered = [{name: list(s.parameters) for name, s in _methods(one).items()} for one in classes]
    assert any(wanted.items() <= methods.items() for methods in offered)


def test_there_are_ports() -> None:
    assert len(PORTS) >= 2
