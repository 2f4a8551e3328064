"""The page about jobs: its files are read as it says, its commands exist, its program runs."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from headgate.cli import app
from headgate.cli.jobs import batch, results
from headgate.client import Answer, Decision, Job
from headgate.client.types import Usage
from tests.unit.job_rig import JobGateway, serving

PAGE = (Path(__file__).parents[2] / "docs/howto/queue-work.md").read_text()
LINES, RESULTS = re.findall(r"^```jsonl\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_lines_of_the_page_are_jobs():
    frame = batch.Frame("evening", "batch", 0)
    read = [batch.parse(number, raw.encode(), frame) for number, raw in enumerate(LINES.splitlines(), 1)]
    assert [line.job_id for line in read] == ["evening:q-17", "evening:q-18"]
    assert [line.request.options["model"] for line in read] == ["", "large"]


def test_a_result_looks_as_on_the_page():
    fields: dict = dict.fromkeys(Decision.__dataclass_fields__) | {"cost_nanousd": 0}
    answer = Answer("", "stop", Usage(0, 0, False), Decision(**fields))
    written = results.as_line("q", Job("j", "done", "batch", "", None, None, None, 1, answer, None))
    assert shape(json.loads(RESULTS)) == shape(written)


def shape(value: object) -> object:
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return [shape(one) for one in value] if isinstance(value, list) else None


@pytest.mark.parametrize("command", ["submit", "watch", "list", "get", "cancel", "dead", "replay"])
def test_the_commands_of_the_page_exist(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = re.findall(rf"^headgate jobs {command}\b(.*?)(?:#|$)", PAGE, re.MULTILINE)
    assert shown
    assert app.run(["jobs", command, "--help"], {}) == 0
    helped = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z-]+", " ".join(shown))) <= helped


def test_the_program_of_the_page_runs(tmp_path, capsys):
    [program] = re.findall(
        r"^<!-- file: evening.py -->\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    gateway = JobGateway()
    with serving(gateway) as address:
        shorter = program.replace("127.0.0.1:7070", address).replace("range(10_000)", "range(4_700, 4_720)")
        (tmp_path / "evening.py").write_text(shorter)
        runpy.run_path(str(tmp_path / "evening.py"))
    assert capsys.readouterr().out == "words in 4711done 7-0\n"
    assert len(gateway.jobs) == 20
