"""The rules of the answer cache: what the key digests, what is kept, for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.memory import MemoryStore
from headgate.adapters.ports import SideRoomError
from headgate.gateway import answer_cache
from headgate.gateway.answer_cache import AnswerCache
from headgate.router.types import Decision, ModelEstimate, Prior, Reason
from headgate.v1 import router_pb2, types_pb2

DECISION = Decision("small", Reason.POLICY, "why", (), bundle_version="b1", policy_version="p1")
TEXTS = st.text(min_size=1, max_size=20)


@st.composite
def queries(draw: st.DrawFn) -> types_pb2.Query:
    """Queries with every field that an answer may depend on."""
    messages = [
        types_pb2.Message(
            role=draw(
                st.sampled_from([types_pb2.ROLE_SYSTEM, types_pb2.ROLE_USER, types_pb2.ROLE_ASSISTANT])
            ),
            parts=[types_pb2.Part(text=text) for text in draw(st.lists(TEXTS, min_size=1, max_size=3))],
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    sampling = types_pb2.Sampling(
        temperature=draw(st.sampled_from([0.0, 0.5])),
        top_p=draw(st.sampled_from([0.5, 1.0])),
        max_tokens=draw(st.integers(0, 3)),
        stop=draw(st.lists(TEXTS, max_size=2)),
        seed=draw(st.integers(0, 3)),
    )
    return types_pb2.Query(messages=messages, sampling=sampling)


def _role(query: types_pb2.Query) -> None:
    query.messages[0].role = (query.messages[0].role + 1) % 4  # type: ignore[assignment]


def _shift(query: types_pb2.Query) -> None:
    """The same characters, cut into parts elsewhere."""
    part = query.messages[0].parts[0]
    query.messages[0].parts.insert(0, types_pb2.Part(text=part.text[:1]))
    query.messages[0].parts[1].text = part.text[1:]


CHANGES: dict[str, Callable[[types_pb2.Query], object]] = {
    "text": lambda q: setattr(q.messages[0].parts[0], "text", q.messages[0].parts[0].text + "!"),
    "parts": _shift,
    "role": _role,
    "another turn": lambda q: q.messages.add(role=types_pb2.ROLE_USER).parts.add(text="more"),
    "temperature": lambda q: setattr(q.sampling, "temperature", q.sampling.temperature + 0.25),
    "top_p": lambda q: setattr(q.sampling, "top_p", q.sampling.top_p / 2),
    "max_tokens": lambda q: setattr(q.sampling, "max_tokens", q.sampling.max_tokens + 1),
    "stop": lambda q: q.sampling.stop.append("stop"),
    "seed": lambda q: setattr(q.sampling, "seed", q.sampling.seed + 1),
}


def key_of(
    query: types_pb2.Query, tenant: str = "acme", decision: Decision = DECISION, version: str = "v1"
) -> str:
    return str(answer_cache.key(tenant, query, decision, version))


def test_a_draft_read_under_another_lambda_is_another_answer() -> None:
    query, prior = types_pb2.Query(), Prior((0.0, 0.0), (0.1, 1.0), 5.0)
    loose, strict = (replace(DECISION, lam=lam, prior=prior) for lam in (1.0, 0.01))
    assert key_of(query, decision=loose) != key_of(query, decision=strict)
    unread = [key_of(query, decision=replace(DECISION, lam=lam)) for lam in (1.0, 0.01)]
    assert len({key_of(query, decision=loose), *unread}) == 2


def test_what_may_be_upgraded_is_another_answer() -> None:
    query = types_pb2.Query()
    assert key_of(query) != key_of(query, decision=replace(DECISION, upgrade="large"))


def test_where_a_draft_is_read_the_models_that_may_answer_count() -> None:
    """After a draft any of them may: one that lacks what is required now must not have answered then."""
    query, prior = types_pb2.Query(), Prior((0.0,) * 3, (0.1, 0.2, 1.0), 5.0)
    barred = ("", "without the capability json")
    drafting = [
        replace(DECISION, prior=prior, estimates=(ModelEstimate("mid", 1, excluded_because=why),))
        for why in barred
    ]
    assert len({key_of(query, decision=one) for one in drafting}) == 2
    assert len({key_of(query, decision=replace(one, prior=None)) for one in drafting}) == 1


def test_every_field_of_sampling_is_among_the_changes() -> None:
    """A new field fails here until somebody has thought about the key."""
    assert {field.name for field in types_pb2.Sampling.DESCRIPTOR.fields} <= set(CHANGES)
    assert {field.name for field in types_pb2.Message.DESCRIPTOR.fields} == {"role", "parts"}
    others = {field.name for field in types_pb2.Query.DESCRIPTOR.fields} - {"messages", "sampling"}
    for_the_decision = {"model", "policy_override", "session", "required_capabilities"}
    assert others == {"request_id", "metadata"} | for_the_decision


@pytest.mark.parametrize("change", CHANGES)
@given(query=queries())
def test_each_field_flips_the_key(change: str, query: types_pb2.Query) -> None:
    before = key_of(query)
    CHANGES[change](query)
    assert key_of(query) != before


@given(query=queries())
def test_who_and_what_decided_flip_the_key(query: types_pb2.Query) -> None:
    keys = [
        key_of(query),
        key_of(query, tenant="beta"),
        key_of(query, version="v2"),
        key_of(query, decision=replace(DECISION, model="large")),
        key_of(query, decision=replace(DECISION, bundle_version="b2")),
        key_of(query, decision=replace(DECISION, policy_version="p2")),
    ]
    digests = {one.rpartition(":")[2] for one in keys}
    assert len(digests) == len(keys), "the tenant, too, is inside of the digest"


@given(query=queries(), name=TEXTS)
def test_names_and_labels_do_not(query: types_pb2.Query, name: str) -> None:
    before = key_of(query)
    query.request_id = query.session = name
    query.metadata[name] = name
    assert key_of(query) == before


@given(st.lists(TEXTS, min_size=2, max_size=4))
def test_the_borders_between_fields_count(parts: list[str]) -> None:
    """Moving a character over the border of two digested fields makes another key."""
    one = replace(DECISION, policy_version="ab", bundle_version="c")
    other = replace(DECISION, policy_version="a", bundle_version="bc")
    query = types_pb2.Query(messages=[types_pb2.Message(parts=[types_pb2.Part(text="".join(parts))])])
    assert key_of(query, decision=one) != key_of(query, decision=other)


def answer(
    finish: types_pb2.FinishReason.ValueType = types_pb2.FINISH_REASON_STOP,
    degraded: tuple[types_pb2.Degradation.ValueType, ...] = (),
) -> router_pb2.GenerateResponse:
    message = types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[types_pb2.Part(text="42")])
    return router_pb2.GenerateResponse(
        message=message,
        finish_reason=finish,
        usage=types_pb2.Usage(completion_tokens=2),
        decision=types_pb2.Decision(model="small", cost_nanousd=7, degraded=degraded),
    )


KEY = answer_cache.key("acme", types_pb2.Query(), DECISION, "v1")


async def test_what_is_kept_comes_back_without_its_decision() -> None:
    cache = AnswerCache(MemoryStore(), ttl_s=60)
    cache.keep(KEY, answer())
    await cache.settle()
    status, kept = await cache.look_up(KEY)
    assert status == types_pb2.CACHE_STATUS_HIT
    assert kept is not None
    assert kept.message.parts[0].text == "42"
    assert not kept.HasField("decision")


@pytest.mark.parametrize(
    "bad",
    [
        answer(types_pb2.FINISH_REASON_LENGTH),
        answer(types_pb2.FINISH_REASON_DECLINED),
        answer(types_pb2.FINISH_REASON_UNSPECIFIED),
        answer(degraded=(types_pb2.DEGRADATION_WORKER,)),
    ],
    ids=["cut", "declined", "unfinished", "fallback"],
)
async def test_only_whole_answers_of_the_chosen_model_are_kept(bad: router_pb2.GenerateResponse) -> None:
    cache = AnswerCache(MemoryStore(), ttl_s=60)
    cache.keep(KEY, bad)
    await cache.settle()
    assert await cache.look_up(KEY) == (types_pb2.CACHE_STATUS_MISS, None)


@pytest.mark.parametrize(
    ("temperature", "repeatable"), [(None, True), (0.0, True), (0.01, False), (1.0, False)]
)
def test_only_greedy_queries_are_repeatable(temperature: float | None, repeatable: bool) -> None:
    query = types_pb2.Query(sampling=types_pb2.Sampling(temperature=temperature))
    assert answer_cache.repeatable(query) is repeatable


class _Recording(MemoryStore):
    """Remembers the times to live."""

    def __init__(self) -> None:
        super().__init__()
        self.ttls: list[float] = []

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self.ttls.append(ttl_s)
        await super().put(key, value, ttl_s)


async def test_times_to_live_vary_by_a_tenth() -> None:
    draws = iter([0.0, 0.5, 0.999999])
    store = _Recording()
    cache = AnswerCache(store, ttl_s=100, jitter=lambda: next(draws))
    for _ in range(3):
        cache.keep(KEY, answer())
    await cache.settle()
    assert store.ttls == pytest.approx([90, 100, 110], abs=1e-3)


async def test_a_value_under_a_foreign_key_is_a_miss() -> None:
    store = MemoryStore()
    cache = AnswerCache(store, ttl_s=60)
    other = answer_cache.key("beta", types_pb2.Query(), DECISION, "v1")
    cache.keep(other, answer())
    await cache.settle()
    mixed_up = await store.get(str(other))
    assert mixed_up
    await store.put(str(KEY), mixed_up, 60)
    assert await cache.look_up(KEY) == (types_pb2.CACHE_STATUS_MISS, None)


@pytest.mark.parametrize("junk", [b"", b"short", KEY.digest + b"\xff\xff\xff"])
async def test_junk_is_a_miss(junk: bytes) -> None:
    store = MemoryStore()
    await store.put(str(KEY), junk, 60)
    assert await AnswerCache(store, ttl_s=60).look_up(KEY) == (types_pb2.CACHE_STATUS_MISS, None)


class _Broken:
    """A store that is not there."""

    async def get(self, key: str) -> bytes | None:
        raise SideRoomError("gone")

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        raise SideRoomError("gone")


async def test_a_broken_store_is_unavailable_and_nothing_worse() -> None:
    cache = AnswerCache(_Broken(), ttl_s=60)
    assert await cache.look_up(KEY) == (types_pb2.CACHE_STATUS_UNAVAILABLE, None)
    assert cache.degraded
    cache.keep(KEY, answer())
    await cache.settle()


async def test_without_a_store_or_switched_off_it_is_bypassed() -> None:
    off = AnswerCache(MemoryStore(), ttl_s=60)
    off.enabled = False
    for cache in (AnswerCache(None, ttl_s=60), off):
        assert await cache.look_up(KEY) == (types_pb2.CACHE_STATUS_BYPASS, None)
        cache.keep(KEY, answer())
