"""Logs tell what happened and where, and nothing that a caller wrote."""

from __future__ import annotations

import json
import subprocess
import sys

CANARY = "canary-7f3a"
PROGRAM = f"""
import asyncio, logging, structlog
from headgate.adapters import logs
from headgate.v1 import types_pb2
logs.setup("debug")
log = structlog.get_logger("t")
message = types_pb2.Message(parts=[types_pb2.Part(text="{CANARY}")])
log.info("a value", model="small", count=3, message=message, raw=b"{CANARY}", many=["{CANARY}"])
log.info("long", text="x" * 1000)
try:
    raise ValueError("bad input: {CANARY}")
except ValueError:
    log.exception("failed")
    logging.getLogger("foreign").exception("it broke: %s", "{CANARY}")
async def broken():
    raise RuntimeError("{CANARY}")
async def main():
    task = asyncio.ensure_future(broken())
    await asyncio.sleep(0)
    del task
asyncio.run(main())
"""


def _lines() -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert CANARY not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_lines_are_json_without_the_caller_s_words() -> None:
    lines = {str(line["event"]): line for line in _lines()}
    assert (lines["a value"]["model"], lines["a value"]["count"]) == ("small", 3)
    assert lines["a value"]["message"] == "<Message>"
    assert len(str(lines["long"]["text"])) < 300
    assert lines["failed"]["error"] == "ValueError"
    assert "<string>" in str(lines["failed"]["raised_at"])
    assert lines["it broke: %s"]["error"] == "ValueError"
    assert any("RuntimeError" in str(line.get("error")) for line in lines.values())
