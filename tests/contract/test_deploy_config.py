"""The example config is a real one: it loads, it is complete, and its secrets are references."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from headgate.adapters import settings
from headgate.adapters.config import Config

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "deploy/config").glob("*.yaml"))
GUIDE = (ROOT / "docs/howto/configure.md").read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_loads(path: Path) -> None:
    loaded = settings.load(path, {})
    assert not loaded.config.gateway.open
    assert loaded.config.policy.reference in loaded.config.pool


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_shows_every_section(path: Path) -> None:
    assert set(yaml.safe_load(path.read_text())) == set(Config.model_fields)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_misspelt_key_is_refused(path: Path, tmp_path: Path) -> None:
    wrong = tmp_path / path.name
    wrong.write_text(path.read_text().replace("listen:", "listn:", 1))
    line = 1 + next(n for n, text in enumerate(wrong.read_text().splitlines()) if "listn:" in text)
    with pytest.raises(settings.ConfigError, match=rf"{path.name}:{line}.*listn"):
        settings.load(wrong, {})


def _names(shape: type, prefix: str = "") -> list[str]:
    found = []
    for name, field in shape.model_fields.items():  # type: ignore[attr-defined]
        inner = _models(field.annotation)
        found += [row for one in inner for row in _names(one, name)] or [f"{prefix}.{name}".lstrip(".")]
    return found


def _models(annotation: object) -> list[type]:
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return [annotation]
    return [one for argument in getattr(annotation, "__args__", ()) for one in _models(argument)]


@pytest.mark.parametrize("setting", sorted({name.rpartition(".")[2] for name in _names(Config)}))
def test_the_guide_names_every_setting(setting: str) -> None:
    assert f"`{setting}`" in GUIDE
