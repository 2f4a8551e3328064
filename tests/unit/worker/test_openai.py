"""The openai backend against a real server that misbehaves as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from statistics import median
from time import monotonic

import pytest

from headgate.worker.backends import openai as openai_backend
from headgate.worker.backends.base import (
    BackendError,
    BackendSettings,
    Chunk,
    ContextTooLongError,
    DeadlinePassedError,
    FinishReason,
    GenerationRequest,
    NotLoadableError,
    Price,
    RequestRejectedError,
    Role,
    Sampling,
    Turn,
    UpstreamBrokenError,
    UpstreamOverloadedError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    Usage,
)
from headgate.worker.backends.openai import OpenAIBackend
from tests.faults.upstream import PROMPT_TOKENS, Script, Upstream

GREEDY = Sampling()
KEY = "sk-canary-5f1c"
PROMPT = "canary prompt 81d3"
BODY = b'{"error": {"message": "canary body 77aa", "code": "x"}}'


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


async def open_backend(upstream: Upstream, **changes: object) -> OpenAIBackend:
    settings: dict[str, object] = {
        "source": "scripted",
        "base_url": upstream.base_url,
        "api_key": KEY,
        "first_token_s": 20,
        "idle_s": 20,
    }
    backend = OpenAIBackend(BackendSettings(**{**settings, **changes}))  # type: ignore[arg-type]
    await backend.load()
    return backend


@pytest.fixture
async def backend(upstream: Upstream) -> AsyncIterator[OpenAIBackend]:
    opened = await open_backend(upstream)
    yield opened
    await opened.close()


def ask(sampling: Sampling = GREEDY, within_s: float = 10, request_id: str = "") -> GenerationRequest:
    return GenerationRequest(
        (Turn(Role.USER, PROMPT),), monotonic() + within_s, sampling, request_id=request_id
    )


async def answer(backend: OpenAIBackend, request: GenerationRequest | None = None) -> list[Chunk]:
    return [chunk async for chunk in backend.generate(request or ask())]


async def test_sends_only_what_the_request_says(upstream: Upstream, backend: OpenAIBackend) -> None:
    await answer(backend)
    call = upstream.ledger[0]
    assert call.body == {
        "model": "scripted",
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
    }
    assert call.headers["authorization"] == f"Bearer {KEY}"


async def test_sends_every_sampling_field(upstream: Upstream, backend: OpenAIBackend) -> None:
    stops = tuple("vwxyz")
    await answer(backend, ask(Sampling(0.5, 0.9, 12, stops, -3), request_id="r-1"))
    call = upstream.ledger[0]
    sent = {name: call.body[name] for name in ("temperature", "top_p", "max_tokens", "stop", "seed")}
    assert sent == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 12, "stop": list("vwxy"), "seed": -3}
    assert call.headers["x-client-request-id"] == "r-1"


async def test_what_the_model_does_not_take_is_never_sent(upstream: Upstream) -> None:
    backend = await open_backend(upstream, omit=("temperature", "top_p", "stop", "seed"))
    upstream.script = Script(pieces=("a", "b", "c"), honours_stop=False)
    chunks = await answer(backend, ask(Sampling(0.5, 0.9, 12, ("b",), 3)))
    await backend.close()
    assert set(upstream.ledger[0].body) == {"model", "messages", "stream", "stream_options", "max_tokens"}
    assert "".join(chunk.text for chunk in chunks) == "a", "a stop string ends the answer all the same"


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_vendor_takes_the_new_name_of_max_tokens(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, slash: str
) -> None:
    monkeypatch.setattr(openai_backend, "VENDOR", upstream.base_url)
    backend = await open_backend(upstream, base_url=upstream.base_url + slash)
    await answer(backend, ask(Sampling(max_tokens=12)))
    await backend.close()
    assert upstream.ledger[0].body["max_completion_tokens"] == 12
    assert "max_tokens" not in upstream.ledger[0].body


async def test_a_request_id_that_is_no_header_text_stays_here(
    upstream: Upstream, backend: OpenAIBackend
) -> None:
    await answer(backend, ask(request_id="a\r\nx: y"))
    assert "x-client-request-id" not in upstream.ledger[0].headers


async def test_without_a_key_none_is_sent(upstream: Upstream) -> None:
    backend = await open_backend(upstream, api_key=None)
    await answer(backend)
    await backend.close()
    assert "authorization" not in upstream.ledger[0].headers


async def test_the_environment_changes_nothing(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "canary-environment")
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/v1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    backend = await open_backend(upstream, api_key=None)
    await answer(backend)
    await backend.close()
    assert "canary-environment" not in str(upstream.ledger[0].headers)


async def test_usage_comes_from_the_upstream(backend: OpenAIBackend) -> None:
    assert (await answer(backend))[-1].usage == Usage(PROMPT_TOKENS, 2)


async def test_missing_usage_is_estimated_and_marked(upstream: Upstream, backend: OpenAIBackend) -> None:
    upstream.script = Script(pieces=("ab", "cd", "ef"), usage=False)
    usage = (await answer(backend))[-1].usage
    assert usage is not None
    assert usage.estimated
    assert usage.completion_tokens == 3
    assert usage.prompt_tokens > 0


async def test_usage_that_does_not_come_holds_nothing_up(
    upstream: Upstream, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_backend, "USAGE_S", 0.05)
    upstream.script = Script(before_usage_s=60)
    chunks = await answer(backend)
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.estimated


async def test_a_stop_string_that_the_upstream_ignores_is_kept_and_hangs_up(
    upstream: Upstream, backend: OpenAIBackend
) -> None:
    upstream.script = Script(pieces=("a", "b", "c", "d"), honours_stop=False, stall_after=3)
    chunks = await answer(backend, ask(Sampling(stop=("bc",))))
    assert "".join(chunk.text for chunk in chunks) == "a"
    assert chunks[-1].finish_reason is FinishReason.STOP
    await asyncio.wait_for(upstream.ledger[0].over.wait(), 5)
    assert upstream.ledger[0].gone is not None


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.DECLINED),
        ("tool_calls", FinishReason.DECLINED),
        ("function_call", FinishReason.DECLINED),
    ],
)
async def test_finish_reasons(
    upstream: Upstream, backend: OpenAIBackend, reason: str, expected: FinishReason
) -> None:
    upstream.script = Script(finish_reason=reason)
    assert (await answer(backend))[-1].finish_reason is expected


CALLED = {"name": "search", "arguments": "{}"}
CALLS: list[dict[str, object]] = [
    {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": CALLED}]},
    {"function_call": CALLED},
]


@pytest.mark.parametrize("call", CALLS, ids=["tool", "function"])
@pytest.mark.parametrize("stop", [(), ("end",)], ids=["ended", "at a stop string"])
async def test_the_call_of_a_tool_is_no_answer_though_the_upstream_says_stop(
    upstream: Upstream, backend: OpenAIBackend, call: dict[str, object], stop: tuple[str, ...]
) -> None:
    deltas: list[tuple[dict[str, object], str | None]] = [(call, None), ({"content": " end"}, "stop")]
    events = [{"choices": [{"index": 0, "delta": told, "finish_reason": end}]} for told, end in deltas]
    upstream.script = Script(
        pieces=("Let me look ", "that up."),
        raw=b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in events),
    )
    chunks = await answer(backend, ask(Sampling(stop=stop)))
    assert "".join(chunk.text for chunk in chunks).startswith("Let me look that up.")
    assert chunks[-1].finish_reason is FinishReason.DECLINED


BROKEN = {
    "no finish reason": Script(finish_reason=None),
    "no finish reason, no end": Script(finish_reason=None, usage=False, done=False),
    "an unknown finish reason": Script(finish_reason="abort"),
    "cut before the first piece": Script(cut_after=0),
    "cut between pieces": Script(cut_after=1),
    "cut after the last piece": Script(cut_after=2),
    "bad JSON": Script(raw=b'data: {"choices": [\n\n'),
    "bad UTF-8": Script(raw=b'data: {"id": "\xff\xfe"}\n\n'),
    "another shape": Script(raw=b'data: {"choices": 7}\n\n'),
    "no object": Script(raw=b"data: 7\n\n"),
    "an error event": Script(raw=b'data: {"error": {"message": "canary body 77aa"}}\n\n'),
    "no events": Script(pieces=(), raw=b'{"choices": []}'),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_cut_or_garbled_answer_is_an_error_never_an_end(
    upstream: Upstream, backend: OpenAIBackend, fault: str
) -> None:
    upstream.script = BROKEN[fault]
    received: list[Chunk] = []

    async def receive() -> None:
        async for chunk in backend.generate(ask()):
            received.append(chunk)  # noqa: PERF401

    with pytest.raises(UpstreamBrokenError) as broken:
        await receive()
    assert all(chunk.finish_reason is None for chunk in received)
    assert_clean(broken.value)


STATUSES: dict[int, type[BackendError]] = {
    301: UpstreamRefusedError,
    400: RequestRejectedError,
    401: UpstreamRefusedError,
    403: UpstreamRefusedError,
    404: UpstreamRefusedError,
    408: UpstreamTimeoutError,
    409: UpstreamUnavailableError,
    413: ContextTooLongError,
    422: RequestRejectedError,
    429: UpstreamOverloadedError,
    500: UpstreamUnavailableError,
    502: UpstreamUnavailableError,
    503: UpstreamUnavailableError,
    529: UpstreamUnavailableError,
}


@pytest.mark.parametrize("status", STATUSES)
async def test_statuses(upstream: Upstream, backend: OpenAIBackend, status: int) -> None:
    location = {"location": f"{upstream.base_url}/chat/completions"}
    upstream.script = Script(status=status, body=BODY, headers=location)
    with pytest.raises(BackendError) as failed:
        await answer(backend)
    assert type(failed.value) is STATUSES[status]
    assert len(upstream.ledger) == 1, "neither retried nor redirected"
    assert_clean(failed.value)


def assert_clean(error: BackendError) -> None:
    """Neither the sentence nor what a log may render of the error holds anything of body, prompt or key."""
    seen = f"{error} {error!r} {error.__cause__!r} {vars(error)}"
    assert not [canary for canary in ("canary", KEY, "127.0.0.1") if canary in seen]


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_passed_on(upstream: Upstream, backend: OpenAIBackend, status: int) -> None:
    upstream.script = Script(status=status, headers={"retry-after": "7"})
    with pytest.raises(UpstreamOverloadedError) as overloaded:
        await answer(backend)
    assert overloaded.value.retry_after_s == 7


async def test_nobody_there(upstream: Upstream, unused_tcp_port: int) -> None:
    backend = await open_backend(upstream, base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    with pytest.raises(UpstreamUnavailableError):
        await answer(backend)
    await backend.close()


SILENCES = {
    "before the headers": (Script(before_headers_s=60), {"first_token_s": 0.3}),
    "before the first piece": (Script(before_first_s=60), {"first_token_s": 0.3}),
    "between pieces": (Script(stall_after=1), {"idle_s": 0.2}),
}


@pytest.mark.parametrize("where", SILENCES)
async def test_silence_is_cut_and_the_upstream_hung_up_on(upstream: Upstream, where: str) -> None:
    upstream.script, limit = SILENCES[where]
    (limit_s,) = limit.values()
    backend = await open_backend(upstream, **limit)
    started = monotonic()
    with pytest.raises(UpstreamTimeoutError, match=f"silent for {limit_s} s"):
        await answer(backend)
    assert limit_s <= monotonic() - started < 10
    call = upstream.ledger[0]
    await asyncio.wait_for(call.over.wait(), 5)
    assert call.gone is not None
    await backend.close()


async def test_a_slow_answer_that_never_falls_silent_is_no_timeout(upstream: Upstream) -> None:
    backend = await open_backend(upstream, first_token_s=20, idle_s=3)
    upstream.script = Script(pieces=tuple("abcdefgh"), between_s=0.5)
    assert "".join(chunk.text for chunk in await answer(backend)) == "abcdefgh"
    await backend.close()


@pytest.mark.parametrize("script", [Script(before_headers_s=60), Script(stall_after=1)])
async def test_the_deadline_comes_before_the_other_limits(
    upstream: Upstream, backend: OpenAIBackend, script: Script
) -> None:
    upstream.script = script
    with pytest.raises(DeadlinePassedError):
        await answer(backend, ask(within_s=0.3))
    await asyncio.wait_for(upstream.ledger[0].over.wait(), 5)
    assert upstream.ledger[0].gone is not None


CANCELLED = {
    "before the headers": Script(before_headers_s=60),
    "before the first piece": Script(before_first_s=60),
    "in the middle": Script(pieces=("x",) * 1000, between_s=0.001),
}


@pytest.mark.parametrize("where", CANCELLED)
async def test_a_cancelled_call_closes_the_upstream_within_50_ms(upstream: Upstream, where: str) -> None:
    backend = await open_backend(upstream, first_token_s=30, idle_s=30)
    upstream.script = CANCELLED[where]
    delays = [await _cancel_and_measure(upstream, backend, number, where) for number in range(100)]
    await backend.close()
    # The slowest say how busy the machine is; that each ends long before the upstream's own minute is ours.
    assert median(delays) <= 0.05, f"{median(delays) * 1e3:.2f} ms"
    assert max(delays) <= 5


async def _cancel_and_measure(upstream: Upstream, backend: OpenAIBackend, number: int, where: str) -> float:
    written = asyncio.Event()

    async def consume() -> None:
        async with aclosing(backend.generate(ask())) as chunks:
            async for _ in chunks:
                written.set()

    task = asyncio.create_task(consume())
    call = await asyncio.wait_for(upstream.call(number), 5)
    if where == "in the middle":
        await asyncio.wait_for(written.wait(), 5)
    left = monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(call.over.wait(), 5)
    assert call.gone is not None
    return call.gone - left


async def test_200_bursts_of_cancelled_calls_leave_the_pool_whole(upstream: Upstream) -> None:
    """httpx 0.28 hands out no connection any more after this (reliability of the pool: httpcore #1093)."""
    backend = await open_backend(upstream, slots=4, first_token_s=30, idle_s=30)
    upstream.script = Script(pieces=("x",) * 100, before_first_s=0.001, between_s=0.001)
    for burst in range(200):
        tasks = [asyncio.create_task(answer(backend)) for _ in range(12)]
        for _ in range(burst % 25):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(call.gone is not None for call in upstream.ledger) >= 200, (
        "the storm never reached the upstream"
    )
    upstream.script = Script()
    async with asyncio.timeout(10):
        healthy = await asyncio.gather(*(answer(backend) for _ in range(8)))
    await backend.close()
    assert ["".join(chunk.text for chunk in chunks) for chunks in healthy] == ["42"] * 8


async def test_connections_are_used_again(upstream: Upstream, backend: OpenAIBackend) -> None:
    for _ in range(10):
        await answer(backend)
    assert upstream.connections == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (BackendSettings(source=""), "source: the openai backend needs"),
        (BackendSettings(source="gpt-4o-mini"), "api_key: OpenAI needs one"),
    ],
)
async def test_what_cannot_work_is_said_when_loading(settings: BackendSettings, sentence: str) -> None:
    with pytest.raises(NotLoadableError, match=sentence):
        await OpenAIBackend(settings).load()


@pytest.mark.parametrize(
    ("model", "price", "context_tokens"),
    [
        ("gpt-4o-mini", Price(150_000_000, 600_000_000), 128_000),
        # Its long prompts cost twice as much per token.
        ("gpt-5.4", Price(2_500_000_000, 15_000_000_000), 1_050_000),
    ],
)
async def test_the_description_tells_context_and_the_listed_price_of_short_prompts(
    model: str, price: Price, context_tokens: int
) -> None:
    backend = OpenAIBackend(BackendSettings(source=model, api_key=KEY))
    await backend.load()
    served = backend.describe()
    await backend.close()
    assert served.price == price
    assert served.context_tokens == context_tokens


async def test_an_unlisted_model_has_no_price_and_a_configured_price_wins(upstream: Upstream) -> None:
    unlisted = await open_backend(upstream)
    configured = await open_backend(upstream, price=Price(1, 2))
    assert unlisted.describe().price is None
    assert unlisted.describe().context_tokens == 0
    assert configured.describe().price == Price(1, 2)
    await unlisted.close()
    await configured.close()


async def test_the_version_depends_on_model_place_and_what_is_omitted(upstream: Upstream) -> None:
    versions = set()
    for changes in ({}, {"source": "other"}, {"base_url": "http://127.0.0.1:9/v1"}, {"omit": ("seed",)}):
        backend = await open_backend(upstream, **changes)
        versions.add(backend.describe().version)
        await backend.close()
    assert len(versions) == 4
