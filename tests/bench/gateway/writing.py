"""Streams of workers that write as fast as they can, a message a token.

watched  small's draft is held back and looked at while it is written, then read and accepted
held     the same, read at its end only
unread   the same text as an answer that is no draft: forwarded token by token
gateway  large is pinned: nothing but the way through is between its worker and the caller
worker   no gateway in front
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

from headgate.router import bundle as bundles
from headgate.v1 import router_pb2, worker_pb2
from tests import hand_made
from tests.bench.gateway import echo, load
from tests.bench.gateway.figures import percentile
from tests.bench.gateway.load import Target
from tests.integration import gateway_rig

if TYPE_CHECKING:
    from tests.bench.gateway.stage import Stage

DRAFTED: Final = "drafts"
DRAFTING_SIDES: Final = ("watched", "held", "unread")
DRAFT_TOKENS: Final = 256
DRAFTS_AT_ONCE: Final = 4
WRITTEN_SIDES: Final = ("worker", "gateway")
WRITTEN_TOKENS: Final = 64
CONCURRENCIES: Final = (1, 8, 32)
STREAM: Final = "/headgate.v1.RouterService/StreamGenerate"
WORKER: Final = "/headgate.v1.WorkerService/Generate"
TICK_S: Final = 0.01
"""The system counts CPU time in these."""

Figures = Mapping[str, float]


def bundle(side: str) -> bytes:
    """One that makes a gateway be that side. Its graphs are as large as trained ones and cost as much."""
    certificate = hand_made.certificate(models=tuple(echo.PRICES), settings={})
    made = hand_made.reading(resolution=0.9, certificates=(certificate,))
    whole = tuple(one for one in made.readers if one.left is None)
    if side == "held":
        made = replace(made, readers=whole)
    elif side == "unread":
        made = replace(hand_made.contents(), certificates=(certificate,))
    return bundles.dump(made)


def loaded(concurrency: int) -> str:
    """The load's name."""
    return f"{concurrency} written at once"


@dataclass(frozen=True, slots=True)
class Written:
    """What is asked of a side, and how often."""

    side: str
    tokens: int
    streams: int
    concurrency: int

    @property
    def question(self) -> str:
        """Of fewer than four digits: by this file's bundles more are left to large without a draft."""
        return f"{echo.WRITE} {self.tokens} words"


def rounds(stage: Stage, streams: int, order: Random) -> Iterator[tuple[str, str, Figures]]:
    """One round: each side under each load, in an order that is drawn."""
    for side in order.sample(DRAFTING_SIDES, len(DRAFTING_SIDES)):
        yield side, DRAFTED, run(stage, Written(side, DRAFT_TOKENS, max(4, streams // 4), DRAFTS_AT_ONCE))
    for concurrency in CONCURRENCIES:
        count = max(concurrency, streams // (4 if concurrency == 1 else 1))
        for side in order.sample(WRITTEN_SIDES, len(WRITTEN_SIDES)):
            written = Written(side, WRITTEN_TOKENS, count, concurrency)
            yield side, loaded(concurrency), run(stage, written)


def run(stage: Stage, asked: Written) -> Figures:
    """Rates and costs of one side; `cpu_us` is that of the side's own process for a token."""
    server = stage.servers[asked.side]
    text = _written if asked.side == "worker" else _delta
    before = server.cpu_s()
    found, seconds = load.streams(target(stage, asked), asked.streams, asked.concurrency, text)
    cpu_s = max(TICK_S, server.cpu_s() - before)
    tokens, whole = asked.streams * asked.tokens, "".join(echo.tokens(asked.tokens)).encode()
    return {
        "calls": asked.streams,
        "failed": sum(one.text != whole for one in found),
        "first_p50_ms": percentile([one.first_ms for one in found], 0.50),
        "messages": sum(one.messages for one in found) / asked.streams,
        "tokens_per_s": tokens / seconds,
        "cpu_us": 1e6 * cpu_s / tokens,
    }


def target(stage: Stage, asked: Written) -> Target:
    """The streaming call of a side."""
    server = stage.servers[asked.side]
    if asked.side == "worker":
        request = worker_pb2.WorkerServiceGenerateRequest(messages=[gateway_rig.turn(asked.question)])
        return Target(server.address, WORKER, request.SerializeToString())
    pin = {"model": "large"} if asked.side == "gateway" else {}
    body = gateway_rig.streamed(asked.question, **pin).SerializeToString()
    return Target(server.address, STREAM, body, server.metadata)


def check(stage: Stage) -> None:
    """That drafts are held back and delivered whole where they should be, and nowhere else."""
    for side, messages in (("watched", 1), ("held", 1), ("unread", DRAFT_TOKENS)):
        found = run(stage, Written(side, DRAFT_TOKENS, 1, 1))
        assert (found["failed"], found["messages"]) == (0, messages), (side, found)


def _delta(message: bytes) -> bytes:
    return router_pb2.StreamGenerateResponse.FromString(message).delta.text.encode()


def _written(message: bytes) -> bytes:
    return worker_pb2.WorkerServiceGenerateResponse.FromString(message).text.encode()
