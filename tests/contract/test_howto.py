"""The code in the how-to pages is code: it runs, and the flags it shows exist."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.adapters import settings
from headgate.adapters.config import SemanticConfig
from headgate.adapters.telemetry import NAMES
from headgate.cli import app
from headgate.router.hits import Audit, HitBound, clean_audits
from headgate.worker.backends import base

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(page: str, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall((ROOT / page).read_text()) if kind == language]


def test_the_guide_s_table_of_comparisons_is_the_code_s() -> None:
    guide = (ROOT / "docs/howto/reuse-answers.md").read_text()
    rows = re.findall(r"^\| ([\d.]+) \| (\d+) \|$", guide, re.MULTILINE)
    assert rows
    confidence = SemanticConfig().confidence
    assert [int(told) for _, told in rows] == [clean_audits(float(share), confidence) for share, _ in rows]


def test_what_the_guide_says_of_the_first_like_answer_is_so() -> None:
    """268 alike at 0.96 open every level; after one difference it takes 643; less alike ones never do."""
    for similarity, wrong, needs in ((0.96, 0, 268), (0.96, 1, 643), (0.95, 0, None)):
        bound, number = HitBound(0.01, 0.9), 0
        for number in range(1000):
            bound.note(Audit(b"%d" % number, similarity, same=number >= wrong))
            if bound.threshold is not None:
                break
        assert (number + 1 if bound.threshold else None) == needs
        assert bound.threshold in (None, 0.7)


async def test_the_backend_of_the_guide_answers() -> None:
    names: dict[str, Any] = {}
    exec(_blocks("docs/howto/add-a-backend.md", "python")[0], names)  # noqa: S102
    backend: base.Backend = names["ShoutBackend"](base.BackendSettings(source="anything"))
    await backend.load()
    turn = base.Turn(base.Role.USER, "speak up")
    request = base.GenerationRequest((turn,), deadline=time.monotonic() + 5)
    chunks = [chunk async for chunk in backend.generate(request)]
    await backend.close()
    assert "".join(chunk.text for chunk in chunks) == "SPEAK UP "
    assert [chunk.finish_reason for chunk in chunks] == [None, None, base.FinishReason.STOP]
    assert chunks[-1].usage is not None
    assert backend.describe().version


@pytest.mark.parametrize("body", _blocks("docs/howto/configure.md", "yaml"))
def test_the_config_of_the_guide_loads(body: str, tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(body)
    settings.load(tmp_path / "headgate.yaml", {})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_shown_yaml_is_yaml(page: Path) -> None:
    for body in _blocks(str(page.relative_to(ROOT)), "yaml"):
        assert yaml.safe_load(body)


def test_the_guide_s_table_of_metrics_is_the_code_s() -> None:
    guide = (ROOT / "docs/howto/operate.md").read_text()
    rows = re.findall(r"^\| `(headgate_\w+)` \| ([^|]*)\|", guide, re.MULTILINE)
    assert {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == {
        name: labels for name, (_, labels) in NAMES.items()
    }


@pytest.mark.parametrize("command", ["train", "certify", "evaluate"])
def test_the_flags_of_the_guide_exist(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = [
        call
        for page in ("train-the-router.md", "your-own-pool.md")
        for call in re.findall(
            rf"^headgate {command} (.*?)(?:^headgate|^```)",
            (ROOT / "docs/howto" / page).read_text(),
            re.MULTILINE | re.DOTALL,
        )
    ]
    assert shown
    assert app.run([command, "--help"], {}) == 0
    helped = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z-]+", " ".join(shown))) <= helped
