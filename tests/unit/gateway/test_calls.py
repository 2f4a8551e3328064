"""What is read of a call; what becomes of calls that fail is tried in integration/ and faults/."""

from __future__ import annotations

from collections.abc import Sequence

from headgate.adapters.telemetry import Metrics
from headgate.gateway.answer_cache import AnswerCache
from headgate.gateway.calls import Calls
from headgate.gateway.delivery import Delivery
from headgate.gateway.journey import Event
from headgate.gateway.looks import Looks
from headgate.gateway.reuse import Reuse
from headgate.router.accept import Look
from headgate.router.cascade import Cascade
from headgate.router.types import Draft, Pool
from headgate.v1 import types_pb2, worker_pb2
from tests.unit.gateway.three_models import journey, three_workers


class Scripted:
    """A call that brings these chunks."""

    def __init__(self, chunks: Sequence[worker_pb2.WorkerServiceGenerateResponse]) -> None:
        self._chunks = list(chunks)

    async def read(self) -> worker_pb2.WorkerServiceGenerateResponse:
        return self._chunks.pop(0)


class Accepting(Cascade):
    """A cascade that accepts a draft after two tokens."""

    hold_back = 2

    def look(self, draft: Draft, *, overdue: bool = False) -> Look:
        return Look.ACCEPT


async def test_the_end_of_a_draft_whose_beginning_was_accepted_is_read_with_all_its_log_probabilities() -> (
    None
):
    workers = three_workers()
    told = [-0.1, -0.2, -3.0, -4.0]
    chunks = [
        worker_pb2.WorkerServiceGenerateResponse(
            text=f"{number} ", tokens=[worker_pb2.Token(token_id=-1, logprob=logprob)]
        )
        for number, logprob in enumerate(told)
    ]
    chunks[-1].finish_reason = types_pb2.FINISH_REASON_STOP
    chunks[-1].usage.completion_tokens = len(told)

    async def deliver(_event: Event) -> None: ...

    drafting = journey(deliver=deliver, model="small", holding=True)
    looks = Looks(Accepting(None, Pool((), ""), now=0.0), drafting, "small")
    metrics = Metrics()
    delivery = Delivery(Reuse(AnswerCache(None, 1), workers, metrics), metrics)
    await Calls(workers, delivery, metrics)._read(drafting, Scripted(chunks), looks)  # type: ignore[arg-type]
    assert not drafting.holding, "its beginning was delivered"
    assert list(drafting.hold("small").logprobs) == told
    await workers.close()
