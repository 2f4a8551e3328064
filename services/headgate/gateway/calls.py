"""One call of a worker: what is read goes on to the caller or is held back, and the attempt is noted.

Only this file calls workers for a caller.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import grpc
import grpc.aio

from headgate.adapters.status_map import DeadlineError
from headgate.adapters.telemetry import Metrics
from headgate.gateway import failures, traced
from headgate.gateway.delivery import Delivery
from headgate.gateway.failures import CutError
from headgate.gateway.hedge import Hedge
from headgate.gateway.journey import Journey
from headgate.gateway.looks import Looks
from headgate.gateway.worker_channel import Call
from headgate.gateway.workers import Worker, Workers
from headgate.router.cascade import Cascade
from headgate.router.cost import call_cost, estimate_tokens
from headgate.v1 import types_pb2, worker_pb2


class Calls:
    """Calls workers."""

    def __init__(self, workers: Workers, delivery: Delivery, metrics: Metrics) -> None:
        self._workers = workers
        self._delivery = delivery
        self._metrics = metrics

    async def call(self, journey: Journey, worker: Worker, cascade: Cascade) -> None:
        """Calls the worker once and delivers its text, or holds it back. An attempt is always noted.

        Raises ServiceError, and StoppedError for a draft that is not worth its end.
        """
        left = journey.seconds_left()
        if left <= 0:
            raise DeadlineError("the deadline passed")
        last, code = None, grpc.StatusCode.CANCELLED
        hedge = self._needed_hedge(journey, worker)
        started = time.perf_counter()
        call = hedge or _begin(journey, worker, left)
        try:
            last = await self._read(journey, call, Looks(cascade, journey, worker.name))
            code = grpc.StatusCode.OK
            worker.breaker.succeeded()
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise failures.of_call(worker, error) from None
        except CutError:
            code = grpc.StatusCode.UNAVAILABLE
            worker.breaker.failed()
            raise failures.unreachable(worker) from None
        finally:
            _end(worker, call)
            seconds = hedge.seconds if hedge else time.perf_counter() - started
            self._note(journey, worker, code, last, seconds)

    def begin_beside(self, journey: Journey, model: str) -> None:
        """Begins the answer of `model` beside a draft; not where that would be a trial or a late one."""
        worker, left = self._workers[model], journey.seconds_left()
        if worker.serving and not worker.breaker.open and left > 0:
            journey.hedge = Hedge(worker, _begin(replace(journey, holding=False), worker, left))

    def drop_hedge(self, journey: Journey) -> None:
        """Nobody needs the hedge: it ends, and what it wrote is counted and paid."""
        hedge, journey.hedge = journey.hedge, None
        if hedge is None:
            return
        hedge.cancel()
        self._metrics.hedges.labels(hedge.worker.name, "no").inc()
        usage = hedge.usage or types_pb2.Usage(estimated=True)
        if hedge.usage is None and (hedge.written or hedge.code is grpc.StatusCode.CANCELLED):
            usage = journey.estimated_usage(hedge.written)
        attempt = self._attempt(journey, hedge.worker, hedge.code, usage, hedge.seconds)
        self._metrics.wasted_hedge_tokens.labels(hedge.worker.name).inc(attempt.usage.completion_tokens)
        journey.wasted_nanousd += attempt.cost_nanousd

    async def _read(
        self, journey: Journey, call: Call | Hedge, watch: Looks
    ) -> worker_pb2.WorkerServiceGenerateResponse:
        """Delivers chunks up to the last one, which is returned. Raises CutError when there is none."""
        while True:
            asked = time.perf_counter()
            try:
                chunk = await call.read()
            except asyncio.CancelledError:
                if failures.cancelled_from_outside():
                    raise
                raise CutError from None
            finally:
                journey.waited += time.perf_counter() - asked
            if not isinstance(chunk, worker_pb2.WorkerServiceGenerateResponse):
                raise CutError
            await self._delivery.text(journey, chunk.text, (token.logprob for token in chunk.tokens))
            journey.logprobs.extend(token.logprob for token in chunk.tokens)
            if chunk.finish_reason:
                journey.finish_reason = chunk.finish_reason
                journey.usage = chunk.usage
                if _ends_well(journey) and watch.ends(len(chunk.text), chunk.usage.completion_tokens):
                    await self._delivery.release(journey, journey.so_far())
                return chunk
            tokens = len(chunk.tokens) or estimate_tokens(chunk.text)
            if journey.holding and watch.accepts(tokens, len(chunk.text)):
                await self._delivery.release(journey, journey.so_far())
                if journey.delivered:
                    # Nothing can be retracted any more: the hedge would only cost.
                    self.drop_hedge(journey)

    def _needed_hedge(self, journey: Journey, worker: Worker) -> Hedge | None:
        """The hedge, where it is that worker's: from now on it is an attempt as any other."""
        hedge = journey.hedge
        if hedge is None or hedge.worker is not worker:
            return None
        journey.hedge = None
        self._metrics.hedges.labels(worker.name, "yes").inc()
        return hedge

    def _note(
        self,
        journey: Journey,
        worker: Worker,
        code: grpc.StatusCode,
        last: worker_pb2.WorkerServiceGenerateResponse | None,
        seconds: float,
    ) -> None:
        """Adds an attempt; one without a last chunk is charged for what it is seen to have used."""
        if last is not None:
            usage = last.usage
        elif journey.usage.completion_tokens and journey.holding:
            usage = journey.usage
        else:
            usage = journey.estimated_usage() if journey.text else types_pb2.Usage(estimated=True)
        if not (journey.holding and code is grpc.StatusCode.CANCELLED):
            _tell_pace(worker, code, seconds, usage.completion_tokens)
        attempt = self._attempt(journey, worker, code, usage, seconds)
        if last is not None and last.HasField("speculation"):
            attempt.speculation.CopyFrom(last.speculation)

    def _attempt(
        self,
        journey: Journey,
        worker: Worker,
        code: grpc.StatusCode,
        usage: types_pb2.Usage,
        seconds: float,
    ) -> types_pb2.Attempt:
        price = worker.model.price if worker.model else None
        cost = call_cost(price, usage.prompt_tokens, usage.completion_tokens) if price else 0
        attempt = types_pb2.Attempt(model=worker.name, code=code.value[0], usage=usage, cost_nanousd=cost)
        attempt.duration.FromNanoseconds(round(seconds * 1e9))
        journey.attempts.append(attempt)
        self._metrics.attempts.labels(worker.name, code.name).inc()
        self._metrics.cost.labels(worker.name).inc(cost)
        traced.attempted(journey, attempt, code)
        return attempt


def _ends_well(journey: Journey) -> bool:
    """Whether what has ended is a draft, and neither cut nor an excuse."""
    return journey.holding and journey.finish_reason == types_pb2.FINISH_REASON_STOP


def _begin(journey: Journey, worker: Worker, left: float) -> Call:
    """Starts a call of the worker, which has so many seconds."""
    worker.make_room()
    carried = traced.begun(journey, worker).carried or None
    call = worker.channel.generate(_request(journey, worker), left, carried)
    worker.calls.add(call)
    return call


def _end(worker: Worker, call: Call | Hedge) -> None:
    call.cancel()
    if not isinstance(call, Hedge):
        worker.calls.discard(call)


def _request(journey: Journey, worker: Worker) -> worker_pb2.WorkerServiceGenerateRequest:
    """Of a draft, and by who watches, the log-probabilities are wanted, where the worker tells them."""
    wanted = journey.drafting or journey.watched is not None
    return worker_pb2.WorkerServiceGenerateRequest(
        messages=journey.wire.messages,
        sampling=journey.wire.sampling,
        request_id=journey.request_id,
        logprobs=wanted and worker.model is not None and worker.model.logprobs,
    )


def _tell_pace(worker: Worker, code: grpc.StatusCode, seconds: float, tokens: int) -> None:
    """A failure says nothing of how long answers take; a caller that did not wait for one says something."""
    if code is grpc.StatusCode.OK:
        worker.pace.finished(seconds, tokens, time.monotonic())
    elif code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        worker.pace.cut(seconds, tokens, time.monotonic())
