"""Where a request meets like questions: what is compared with what, and what a fault costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from headgate.adapters.memory import MemoryAnswers
from headgate.adapters.telemetry import Metrics
from headgate.gateway import answer_cache, convert
from headgate.gateway.admission import Caller
from headgate.gateway.answer_cache import AnswerCache, Key
from headgate.gateway.journey import Arrival, Journey
from headgate.gateway.like_questions import LikeQuestions
from headgate.gateway.reuse import Reuse
from headgate.router.types import Decision, Reason
from headgate.v1 import router_pb2, types_pb2
from tests.unit.gateway import test_semantic_cache as semantic

DECISION = Decision("small", Reason.POLICY, "", ())
ASKED, AGAIN = semantic.ASKED, semantic.AGAIN
STOP = types_pb2.FINISH_REASON_STOP
HIT, LIKE, MISS = (
    types_pb2.CACHE_STATUS_HIT,
    types_pb2.CACHE_STATUS_SEMANTIC_HIT,
    types_pb2.CACHE_STATUS_MISS,
)


class House:
    """One gateway's reuse of answers, without models: a request says itself what one answers."""

    def __init__(self) -> None:
        self.semantic = semantic.Rig(semantic.config(wrong_hits=0.2, confidence=0.8))
        self.answers = MemoryAnswers()
        self.cache = AnswerCache(self.answers, 3600)
        self.semantic.now = time.time()
        self.like = LikeQuestions(self.semantic.cache, self.cache, semantic.EMBEDDING)
        workers: Any = SimpleNamespace(pool=None)
        self.reuse = Reuse(self.cache, workers, Metrics(), self.like)

    @property
    def counted(self) -> list[str]:
        return self.semantic.counted

    def earn(self) -> None:
        """From now on like questions' answers are given."""
        rest = types_pb2.Query(messages=[types_pb2.Message(role=types_pb2.ROLE_USER)])
        self.semantic.earn(route=semantic.semantic_cache.route(rest))

    async def begin(self, text: str, **control: Any) -> Request:
        """A request up to where a model would be asked."""
        wire = types_pb2.Query(
            messages=[types_pb2.Message(role=types_pb2.ROLE_USER, parts=[types_pb2.Part(text=text)])],
            cache=types_pb2.CacheControl(**control),
        )
        now = time.perf_counter()
        journey = Journey.of(Arrival(Caller("acme"), now, now + 60), wire)

        def key_of(query: types_pb2.Query) -> Key:
            return answer_cache.key("acme", query, DECISION, "v1")

        journey.place = self.like.place("acme", wire, key_of)
        command: Any = SimpleNamespace(draft=False, decision=DECISION)
        renew: Any = None
        at = key_of(wire)
        found = await self.reuse.find(journey, at, command, renew)
        return Request(
            self, journey, at, "" if found.entry is None else convert.text(found.entry.answer.message)
        )

    async def ask(self, text: str, answer: str = "42", **control: Any) -> types_pb2.CacheStatus.ValueType:
        """A whole request; a model would answer it so."""
        request = await self.begin(text, **control)
        if not request.given:
            await request.answered(answer)
        await request.end()
        return request.journey.cache_status

    async def settle(self) -> None:
        await self.cache.settle()
        await self.like.settle()


class Request:
    """One that is under way."""

    def __init__(self, house: House, journey: Journey, at: Key, given: str) -> None:
        self.journey = journey
        self.given = given
        self._house = house
        self._at = at

    async def answered(
        self, text: str, finish: types_pb2.FinishReason.ValueType = STOP, *, asked: bool = True
    ) -> None:
        decision = types_pb2.Decision(model="small")
        if asked:
            self.journey.attempts.append(types_pb2.Attempt(model="small"))
        message = types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[types_pb2.Part(text=text)])
        response = router_pb2.GenerateResponse(message=message, finish_reason=finish, decision=decision)
        end: Any = SimpleNamespace(decision=DECISION, draft=False, model="small")
        self._house.reuse.keep(self.journey, self._at, end, response)

    async def end(self) -> None:
        self._house.reuse.leave(self.journey, alone=True)
        await self._house.settle()


@pytest.fixture
def house() -> House:
    return House()


async def test_what_it_would_have_been_given_is_compared_with_what_it_got(house: House) -> None:
    await house.ask(ASKED, "42")
    assert await house.ask(AGAIN, "42.") == MISS
    assert await house.ask("How can I cancel my order?", "43") == MISS
    assert house.counted == ["none", "near", "same", "near", "different"]


async def test_a_question_is_never_compared_with_itself(house: House) -> None:
    """Its own answer is there and does not fit, for it lacks the tag: it is asked anew ten times."""
    for number in range(10):
        assert await house.ask(ASKED, str(number), tags=[str(number)]) == MISS
    assert house.counted == ["none"] * 10


@pytest.mark.parametrize("gone", ["expired", "evicted"])
async def test_nor_when_its_answer_is_gone(house: House, gone: str) -> None:
    if gone == "expired":
        house.cache.ttl_s = 0
    for number in range(10):
        house.answers.values.clear()
        assert await house.ask(ASKED, str(number)) == MISS
    assert house.counted == ["none"] * 10


async def test_compared_is_the_answer_that_was_there_when_it_was_asked(house: House) -> None:
    """Meanwhile another one takes its place, that would not have been given."""
    await house.ask(ASKED, "42")
    request = await house.begin(AGAIN)
    comparison = request.journey.comparison
    assert comparison is not None
    kept = await comparison.cached
    assert kept is not None
    later = router_pb2.GenerateResponse()
    later.CopyFrom(kept.answer)
    later.message.parts[0].text = "43"
    house.cache.keep(comparison.candidate.key, replace(kept, answer=later))
    await house.cache.settle()
    await request.answered("42")
    await request.end()
    assert house.counted[-1] == "same"


async def test_what_could_not_have_been_given_is_not_compared(house: House) -> None:
    await house.ask(ASKED, "42")
    assert await house.ask(AGAIN, "42", tags=["prices"]) == MISS
    assert house.counted == ["none", "near", "gone"]


@pytest.mark.parametrize("finish", ["DECLINED", "LENGTH"])
async def test_an_answer_that_cannot_be_kept_is_a_difference(house: House, finish: str) -> None:
    """To leave it out would hide wrong hits: its question would have been given an answer."""
    await house.ask(ASKED, "42")
    request = await house.begin(AGAIN)
    await request.answered("42", types_pb2.FinishReason.Value(f"FINISH_REASON_{finish}"))
    await request.end()
    assert house.counted == ["none", "near", "different"]


async def test_where_the_model_itself_said_nothing_nothing_is_known(house: House) -> None:
    await house.ask(ASKED, "42")
    fallback = await house.begin(AGAIN)
    fallback.journey.fell_back = True
    await fallback.answered("42")
    await fallback.end()
    failed = await house.begin(AGAIN)
    await failed.end()
    read_again = await house.begin(AGAIN)
    await read_again.answered("42", asked=False)
    await read_again.end()
    assert house.counted == ["none", *["near", "unknown"] * 3]


async def test_counted_as_served_is_what_was_given(house: House) -> None:
    house.earn()
    await house.ask(ASKED, "42")
    request = await house.begin(AGAIN)
    assert (request.given, request.journey.cache_status) == ("42", LIKE)
    await request.end()
    assert await house.ask(AGAIN, tags=["prices"]) == MISS
    assert house.counted == ["none", "served", "gone"]
    house.answers.values.clear()
    assert await house.ask("How can I cancel my order?") == MISS
    assert house.counted[3:] == ["gone"]


@contextmanager
def failing(holder: Any, name: str) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("as told")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, name, fail)
        yield


@pytest.mark.parametrize(
    "where",
    [
        lambda house: (house.semantic.cache._neighbours, "_differ"),
        lambda house: (house.semantic.cache._embedding, "look"),
        lambda house: (house.semantic.cache, "look_up"),
        lambda house: (house.semantic.cache, "keep"),
        lambda house: (house.semantic.cache, "audit"),
        lambda house: (house.cache, "peek"),
        lambda house: (answer_cache, "key"),
        lambda house: (semantic.semantic_cache, "question"),
    ],
    ids=["guard", "look", "look-up", "keep", "audit", "peek", "scope", "question"],
)
@pytest.mark.parametrize("serving", [False, True])
async def test_a_fault_is_a_miss(
    house: House, where: Callable[[House], tuple[Any, str]], *, serving: bool
) -> None:
    if serving:
        house.earn()
    await house.ask(ASKED, "42")
    holder, name = where(house)
    if name == "key":
        with failing(holder, name):
            assert house.like.place("acme", types_pb2.Query(), lambda rest: holder.key()) is None
        return
    with failing(holder, name):
        served = serving and name in ("keep", "audit")
        assert await house.ask(AGAIN, "42") == (LIKE if served else MISS)
    assert served or "failed" in house.counted
    assert await house.ask(ASKED, "42") == HIT, "what was kept is there still"
