"""`headgate ask --watch` as a user sees it: in a terminal and in a pipe, with real models behind it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from headgate.client import Client, ModelSwitched
from tests.integration.gateway_rig import scrubbed

ESCAPE = "\x1b"
HARD = ("Reverse stressed", "Sort up: 27 20 38 68", "93847 + 58213 = ?", "Reverse parliament")
COLOURS = {"TERM": "xterm-256color", "COLUMNS": "200"}


def _command(address: str, question: str) -> list[str]:
    return [sys.executable, "-m", "headgate.cli", "ask", "--watch", "--address", address, question]


def _environ(**more: str) -> dict[str, str]:
    unset = {"NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"}
    return {name: value for name, value in scrubbed().items() if name not in unset} | COLOURS | more


def _in_a_terminal(command: list[str], **more: str) -> str:
    """What a terminal of its own gets to see of a command that ends well."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=_environ(**more)
    ) as process:
        os.close(theirs)
        seen = b""
        while piece := _read(ours):
            seen += piece
    os.close(ours)
    assert process.returncode == 0, seen
    return seen.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so where the other side is closed.
        return b""


def _bare(text: str) -> str:
    return re.sub(rf"{ESCAPE}\[[\d;]*m", "", text)


def _doubted(address: str) -> tuple[str, ModelSwitched, str]:
    """A question whose draft is not accepted, how that is told, and its answer."""
    with Client(address) as client:
        for question in HARD:
            with client.stream(question, watch=True) as stream:
                events = list(stream)
            if isinstance(events[1], ModelSwitched) and events[1].draft:
                return question, events[1], stream.answer.text
    pytest.fail("each of these drafts was accepted")


def test_a_doubted_draft_and_the_answer_in_a_terminal_and_in_a_pipe(up, config):
    address = up(config + "cache: {enabled: false}\n").address
    question, switched, answer = _doubted(address)
    draft = "".join(piece.text for piece in switched.draft)
    assert all(piece.logprobs for piece in switched.draft)

    seen = _in_a_terminal(_command(address, question))
    struck = rf"{ESCAPE}\[(?:[\d;]*;)?9(?:;[\d;]*)?m"
    assert re.search(rf"not accepted: {ESCAPE}\[0m{struck}", seen)
    lines = _bare(seen).splitlines()
    assert lines[0].startswith("small first · policy · p_correct 0.")
    assert f"draft of small, not accepted: {draft}".rstrip() in [line.rstrip() for line in lines]
    assert answer in lines
    assert re.search(rf"{ESCAPE}\[38;5;28m{re.escape(answer[0])}", seen), "its first token is sure and green"

    plain = _in_a_terminal(_command(address, question), NO_COLOR="1")
    assert ESCAPE not in plain
    assert lines[0] in plain

    piped = subprocess.run(
        _command(address, question), capture_output=True, text=True, check=True, env=_environ()
    )
    assert piped.stdout == f"{answer}\n"
    assert ESCAPE not in piped.stderr


def test_an_accepted_draft_is_tinted_and_plain_when_it_comes_from_the_cache(up, config, until):
    address = up(config).address
    seen = _in_a_terminal(_command(address, "4711 in words"))
    assert "four thousand seven hundred eleven" in _bare(seen)
    assert "not accepted" not in seen
    assert f"{ESCAPE}[38;5;28mf" in seen
    assert "probability of a token" in _bare(seen)
    again = ""

    def kept() -> bool:
        nonlocal again
        again = _in_a_terminal(_command(address, "4711 in words"))
        return "from the cache" in _bare(again)

    until(kept)
    assert "four thousand seven hundred eleven" in again
    assert "probability of a token" not in again
