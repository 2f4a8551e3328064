"""A worker whose answers the question itself scripts: `python -m … NAME JOURNAL PORT READY_FILE`.

The last message is JSON, all keys optional:
    say      list of chunks                      gap_s   seconds between chunks, or those of models by name
    finish   FinishReason's short name           fail    gRPC code name to end with after the chunks
    only     the one model that fails            times   how often it says all that
    hangs    the one model that says nothing, for ever
    slow     the end of the names of requests that have the gaps; others have none
Any other text is echoed, one with "word by word" in it so, 400 times. What happens is appended to JOURNAL,
one JSON line each: begun, cancelled, ended, and when, by a clock that all processes share.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headgate.adapters import channels
from headgate.v1 import types_pb2, worker_pb2, worker_pb2_grpc
from headgate.worker.backends.builtin.engine import model_version

WEIGHTS = Path(str(resources.files("headgate.worker.backends.builtin"))) / "weights"
PRICES = {"small": 1_000_000_000, "mid": 1_000_000_000, "large": 8_000_000_000}


class ScriptedWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Does what it is told."""

    def __init__(self, name: str, journal: Path) -> None:
        self.name = name
        shipped = json.loads((WEIGHTS / "manifest.json").read_text())
        self._version = model_version(shipped[name if name in shipped else "small"]["sha256"])
        self._journal = journal

    async def DescribeModel(self, _request: object, _context: object) -> worker_pb2.DescribeModelResponse:  # type: ignore[override]
        """Poses as the shipped model of its name, so that the shipped certificates cover it."""
        price = types_pb2.Price(input_nanousd=PRICES[self.name], output_nanousd=PRICES[self.name])
        return worker_pb2.DescribeModelResponse(
            model=self.name,
            backend="scripted",
            version=self._version,
            context_tokens=100_000,
            slots=64,
            price=price,
            logprobs=True,
        )

    async def Generate(  # type: ignore[override]
        self, request: worker_pb2.WorkerServiceGenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Performs the script."""
        text = asked(request)
        script = json.loads(text) if text.startswith("{") else {"say": self._echo(text)}
        told = {"left_s": context.time_remaining(), "logprobs": request.logprobs}
        self.note("begun", request.request_id, **told)
        try:
            if not request.request_id.endswith(script.get("slow", "")):
                script["gap_s"] = 0
            await self._perform(script, request.logprobs, context)
        except asyncio.CancelledError:
            self.note("cancelled", request.request_id)
            raise
        self.note("ended", request.request_id)

    def _echo(self, text: str) -> list[str]:
        pieces = [f"{word} " for word in text.split()] * 400 if "word by word" in text else [text]
        return [f"{self.name}: ", *pieces]

    async def _perform(
        self, script: dict[str, Any], logprobs: bool, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        if script.get("hangs") == self.name:
            await asyncio.Event().wait()
        chunks = script.get("say", [self.name]) * script.get("times", 1)
        gaps = script.get("gap_s", 0)
        gap_s = gaps.get(self.name, 0) if isinstance(gaps, dict) else gaps
        for chunk in chunks:
            tokens = [worker_pb2.Token(token_id=-1, logprob=-0.01)] if logprobs else []
            await context.write(worker_pb2.WorkerServiceGenerateResponse(text=chunk, tokens=tokens))
            await asyncio.sleep(gap_s)
        if "fail" in script and script.get("only", self.name) == self.name:
            await context.abort(grpc.StatusCode[script["fail"]], "scripted failure")
        await context.write(
            worker_pb2.WorkerServiceGenerateResponse(
                finish_reason=types_pb2.FinishReason.Value(f"FINISH_REASON_{script.get('finish', 'STOP')}"),
                usage=types_pb2.Usage(prompt_tokens=10, completion_tokens=len(chunks)),
            )
        )

    def note(self, event: str, request_id: str, **facts: object) -> None:
        """Adds a line to the journal."""
        line = {"event": event, "request_id": request_id, "model": self.name, "at": monotonic(), **facts}
        with self._journal.open("a") as journal:
            journal.write(json.dumps(line) + "\n")


def asked(request: worker_pb2.WorkerServiceGenerateRequest) -> str:
    """The last message's text."""
    return "".join(part.text for part in request.messages[-1].parts)


async def serve(worker: ScriptedWorker, port: int, ready: Path) -> None:
    """Serves until SIGTERM, and says where in `ready`."""
    server = grpc.aio.server(options=channels.server_options())
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    await state.set("headgate.v1.WorkerService", health_pb2.HealthCheckResponse.SERVING)
    taken = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    draft = ready.with_suffix(".draft")
    draft.write_text(json.dumps({"listen": f"127.0.0.1:{taken}"}))
    draft.replace(ready)
    await server.wait_for_termination()


def main(kind: type[ScriptedWorker]) -> None:
    """Serves as the command line says."""
    name, journal, port, ready = sys.argv[1:]
    asyncio.run(serve(kind(name, Path(journal)), int(port), Path(ready)))


if __name__ == "__main__":
    main(ScriptedWorker)
