"""The way from no labels to a certificate is real: every command, flag, setting and number of its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from headgate.adapters import settings
from headgate.adapters.config import Config
from headgate.cli import app
from headgate.cli.outcomes import needs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/howto/your-own-pool.md").read_text()
YAML, *MORE_YAML = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^headgate --config headgate\.yaml (.*)$", PAGE, re.MULTILINE)
ROW = re.compile(r"^\| (\d+) % \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", re.MULTILINE)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def test_the_config_of_the_page_loads(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(YAML)
    loaded = settings.load(tmp_path / "headgate.yaml", {}).config
    assert loaded.shadow.share == 0.05
    for later in MORE_YAML:
        Config.model_validate({**yaml.safe_load(YAML), **yaml.safe_load(later)})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_exist(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    name, _, rest = command.partition(" --")
    assert app.run([*name.split(), "--help"], {}) == 0
    helped = capsys.readouterr().out
    assert set(re.findall(r"--[a-z-]+", f"--{rest}" if rest else "")) <= set(re.findall(r"--[a-z-]+", helped))


def test_the_page_shows_the_commands_in_their_order() -> None:
    assert [" ".join(command.split()[:2]) for command in COMMANDS] == [
        "config validate", "up", "outcomes score", "outcomes status", "outcomes export", "reload",
    ]  # fmt: skip


def test_the_numbers_of_the_page_are_the_code_s() -> None:
    rows = ROW.findall(PAGE)
    assert len(rows) == 5
    for percent, own, every, served in rows:
        level = int(percent) / 100
        assert (_number(own), _number(every)) == (needs.to_certify(level), needs.to_collect(level))
        assert _number(served) == _number(every) / 0.05
