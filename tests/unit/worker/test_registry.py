from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from headgate.worker.backends import registry
from headgate.worker.backends.base import NotLoadableError
from headgate.worker.backends.replay import ReplayBackend


def test_finds_a_backend_by_its_entry_point() -> None:
    assert registry.find("replay") is ReplayBackend


def test_names_are_known_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.names() == ["builtin", "hf", "openai", "replay"]
    torn = EntryPoint("torn", "headgate_absent.module:Backend", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [torn])
    assert registry.names() == ["torn"]


def test_an_unknown_name_lists_what_is_installed() -> None:
    with pytest.raises(NotLoadableError, match="no backend 'bultin'; installed: builtin, hf, openai, "):
        registry.find("bultin")


def test_a_missing_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("torn", "headgate_absent.module:Backend", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.raises(NotLoadableError, match=r"'torn' needs the module 'headgate_absent'.*pip install"):
        registry.find("torn")
