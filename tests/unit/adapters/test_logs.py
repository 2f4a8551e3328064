"""Logs tell what happened and where, and nothing that a caller wrote."""

from __future__ import annotations

import json
import subprocess
import sys

CANARY = "canary-7f3a"
PROGRAM = f"""
import asyncio, logging, structlog
from headgate.adapters import logs, traces
from headgate.v1 import types_pb2
logs.setup("debug")
log = structlog.get_logger("t")
message = types_pb2.Message(parts=[types_pb2.Part(text="{CANARY}")])
log.info("a value", model="small", count=3, message=message, raw=b"{CANARY}", many=["{CANARY}"])
log.info("long", text="x" * 1000)
async def serve(name):
    logs.about({{"request_id": name, "tenant": "acme"}})
    await asyncio.sleep(0)
    log.info(f"of {{name}}", model="small")
    log.info(f"of another than {{name}}", request_id="other")
async def both():
    traces._CURRENT.set(traces.Unsampled("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"))
    await asyncio.gather(serve("r-1"), serve("r-2"))
asyncio.run(both())
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
    assert "trace_id" not in lines["long"]
    assert lines["failed"]["error"] == "ValueError"
    assert "<string>" in str(lines["failed"]["raised_at"])
    assert lines["it broke: %s"]["error"] == "ValueError"
    assert any("RuntimeError" in str(line.get("error")) for line in lines.values())


def test_a_line_names_the_request_that_its_task_works_on_and_its_trace() -> None:
    lines = {str(line["event"]): line for line in _lines()}
    for name in ("r-1", "r-2"):
        line = lines[f"of {name}"]
        assert (line["request_id"], line["tenant"], line["model"]) == (name, "acme", "small")
        assert line["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert lines[f"of another than {name}"]["request_id"] == "other"
    assert "request_id" not in lines["a value"]


def test_why_a_process_ends_is_its_last_line() -> None:
    log_many = 'import structlog\nfor n in range(900): structlog.get_logger("t").info(str(n))\n'
    program = f'from headgate.adapters import logs\nlogs.setup("info")\n{log_many}logs.say_last("no port")'
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    said = ended.stderr.splitlines()
    assert len(said) == 901
    assert said[-1] == "no port"
