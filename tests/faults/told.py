"""What a cascade's stream told its caller, held against what the models say: `counting_worker` knows it.

told = await follow(router, text)      whatever the end
broken(told, record)                   the names of the invariants that it breaks; none is good
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from headgate.v1 import router_pb2, router_pb2_grpc
from tests.faults.chain import ACME
from tests.faults.counting_worker import length, whole
from tests.integration.gateway_rig import streamed

ENDS = {"finished", "error"}


@dataclass(slots=True)
class Told:
    """One stream; its question is its request's id."""

    question: str
    kinds: list[str] = field(default_factory=list)
    """The events, in order."""
    model: str = ""
    """Who is said to answer, as far as it was told."""
    text: str = ""
    """Of that model."""
    taken_back: str = ""
    """Text of a model that another one took over from."""
    finished: router_pb2.Finished | None = None
    code: grpc.StatusCode | None = None
    """None while nobody knows how it ended."""

    def take(self, event: router_pb2.StreamGenerateResponse) -> None:
        """Notes an event."""
        self.kinds.append(str(event.WhichOneof("event")))
        self.text += event.delta.text
        if event.HasField("decision"):
            self.model = event.decision.model
        elif event.HasField("model_switched"):
            self.model = event.model_switched.to_model
            self.taken_back, self.text = self.taken_back + self.text, ""
        elif event.HasField("finished"):
            self.finished = event.finished


async def follow(
    router: router_pb2_grpc.RouterServiceStub, text: str, timeout_s: float = 60, **fields: Any
) -> Told:
    """Asks, and follows the stream to its end, whatever that is."""
    told = Told(text)
    request = streamed(text, request_id=text, **fields)
    try:
        async for event in router.StreamGenerate(request, metadata=ACME, timeout=timeout_s):
            told.take(event)
        told.code = grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        told.code = error.code()
    return told


def broken(told: Told, record: Mapping[bytes, bytes] | None) -> list[str]:
    """The invariants that the stream breaks; `record` is what the gateway's ledger has of it."""
    answer = whole(told.model, told.question) if told.model else ""
    good = told.code is grpc.StatusCode.OK
    found = {
        "silent cut": told.kinds[-1:] != ["finished" if good else "error"],
        "more than one end": sum(kind in ENDS for kind in told.kinds) > 1,
        "text taken back": bool(told.taken_back),
        "wrong tokens": not answer.startswith(told.text),
        "missing tokens": good and told.text != answer,
        "another end than recorded": record is None or record[b"code"].decode() != _name(told.code),
        "other figures": told.finished is not None and _differ(told, told.finished, record or {}),
    }
    return [name for name, breaks in found.items() if breaks]


def _name(code: grpc.StatusCode | None) -> str:
    return code.name if code else ""


def _differ(told: Told, end: router_pb2.Finished, record: Mapping[bytes, bytes]) -> bool:
    """Whether model, usage or cost do not agree with each other, the text or the record."""
    attempts = end.decision.attempts
    answering = [one for one in attempts if one.model == told.model and one.code == 0]
    cost = sum(one.cost_nanousd for one in attempts)
    return not (
        end.decision.model == told.model == record.get(b"model", b"").decode()
        and len(answering) == 1
        and end.usage == answering[0].usage
        and end.usage.completion_tokens == length(told.model, told.question)
        and end.decision.cost_nanousd == cost == int(record.get(b"cost_nanousd", b"-1"))
    )


def failed(record: Mapping[bytes, bytes], model: str) -> bool:
    """Whether a call of the model failed on the way."""
    died = grpc.StatusCode.UNAVAILABLE.value[0]
    return any(name == model and code == died for name, code, _ in json.loads(record[b"attempts"]))
