"""Serves a model of any server that speaks the OpenAI API: vendors, vLLM, SGLang, llama.cpp, Ollama.

One HTTP client for the life of the worker, on httpx2: the pool of httpx 0.28 is wedged for good by a storm of
cancelled calls, and tests/faults holds that this one is not. Nobody but the operator says where calls go:
no redirects, no proxies from the environment, no retries of the SDK's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx2
import openai

from headgate.adapters import traces
from headgate.worker import traced
from headgate.worker.backends.base import (
    BackendError,
    BackendSettings,
    Chunk,
    DeadlinePassedError,
    GenerationRequest,
    ModelDescription,
    NotLoadableError,
    UpstreamTimeoutError,
    question,
)
from headgate.worker.backends.listed import look_up
from headgate.worker.backends.transcript import Transcript
from headgate.worker.backends.upstream_errors import UPSTREAM_FAULTS, translate

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

VENDOR: Final = "https://api.openai.com/v1"
CONNECT_S: Final = 2.0
"""A server that is up accepts at once."""
USAGE_S: Final = 1.0
"""How long an answer that is finished waits for its usage; then it is estimated."""
DONE_S: Final = 0.1
"""How long it waits for the end of the stream after that: only then the connection can be used again."""
_STOPS_UPSTREAM: Final = 4
"""What the OpenAI API takes; the transcript watches for all of them anyway."""
_HEADER_SAFE = re.compile(r"[\x21-\x7e]{1,128}")

_T = TypeVar("_T")


class OpenAIBackend:
    """`source` is the upstream's model name; `base_url` empty means OpenAI itself."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._base_url = settings.base_url or VENDOR
        self._client: openai.AsyncOpenAI | None = None

    async def load(self) -> None:
        """Builds the client; calls nobody."""
        if not self._settings.source:
            raise NotLoadableError("source: the openai backend needs the upstream's model name")
        if self._settings.api_key is None and self._settings.base_url is None:
            raise NotLoadableError("api_key: OpenAI needs one; say `env:NAME` or `file:PATH`")
        # One line per call at level info says nothing that our own records do not.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._client = _client(self._base_url, self._settings.api_key, self._settings.slots)
        # The SDK imports this part on first use: now, not in the first caller's time.
        _ = self._client.chat.completions
        self._description = _description(self._settings, self._base_url)

    def describe(self) -> ModelDescription:
        """The version is the upstream's model name and a digest of where it is served and what is omitted."""
        return self._description

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """The upstream's answer; closing this closes the upstream's connection."""
        question(request.conversation)
        transcript = Transcript(request)
        with traced.calling(self._settings.source, self._base_url) as span:
            async with aclosing(self._events(request, transcript, span)) as events:
                async for event in events:
                    chunk = transcript.read(event)
                    if chunk.text or chunk.tokens:
                        yield chunk
                    if transcript.stopped:
                        break
            last = transcript.end()
            traced.answered(span, last, transcript.model)
        yield last

    async def _events(
        self, request: GenerationRequest, transcript: Transcript, span: traces.Span
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        """The upstream's events until it has no more, or owes nothing but the usage and stays silent."""
        patience = _Patience(self._settings, request.deadline, transcript)
        try:
            stream = await patience.wait(self._call(request, span))
            try:
                while (event := await patience.wait(anext(stream, None))) is not None:
                    yield event
            finally:
                await stream.close()
        except BackendError:
            if not transcript.finished:
                raise
        except UPSTREAM_FAULTS as error:
            if not transcript.finished:
                raise translate(error) from None

    def _call(self, request: GenerationRequest, span: traces.Span) -> Awaitable[Any]:
        if self._client is None:
            raise NotLoadableError("the backend is closed")
        return self._client.chat.completions.create(
            **_arguments(self._settings, self._base_url, request),
            extra_headers=self._headers(request) | dict(span.carried),
        )

    def _headers(self, request: GenerationRequest) -> dict[str, Any]:
        """The name under which the upstream's support finds the call, unless it is no header text."""
        headers: dict[str, Any] = {}
        if self._settings.api_key is None:
            headers["Authorization"] = openai.Omit()
        if _HEADER_SAFE.fullmatch(request.request_id):
            headers["X-Client-Request-Id"] = request.request_id
        return headers

    async def close(self) -> None:
        """Closes every connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class _Patience:
    """How long the next event may take: a limit up to the first text, one between events, the deadline."""

    def __init__(self, settings: BackendSettings, deadline: float, transcript: Transcript) -> None:
        self._idle_s = settings.idle_s
        self._first_token_s = settings.first_token_s
        self._first_token_by = monotonic() + settings.first_token_s
        self._deadline = deadline
        self._transcript = transcript

    async def wait(self, coming: Awaitable[_T]) -> _T:
        """What `coming` gives in time. Raises UpstreamTimeoutError or DeadlinePassedError."""
        now = monotonic()
        by = self._by(now)
        try:
            async with asyncio.timeout(min(by, self._deadline) - now):
                return await coming
        except TimeoutError:
            raise self._overdue(by) from None

    def _by(self, now: float) -> float:
        if self._transcript.finished:
            return now + (DONE_S if self._transcript.counted else USAGE_S)
        return now + self._idle_s if self._transcript.started else self._first_token_by

    def _overdue(self, by: float) -> BackendError:
        if self._deadline <= by:
            return DeadlinePassedError("the deadline passed before the upstream had finished")
        limit_s = self._idle_s if self._transcript.started else self._first_token_s
        return UpstreamTimeoutError(f"the upstream was silent for {limit_s:g} s")


def _client(base_url: str, api_key: str | None, slots: int) -> openai.AsyncOpenAI:
    """Explicit in everything that the SDK would otherwise take from the environment."""
    unset: dict[str, Any] = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
    # A cancelled call may take a moment to close its connection, while the next one already has its slot.
    limits = httpx2.Limits(max_connections=2 * slots, max_keepalive_connections=slots)
    return openai.AsyncOpenAI(
        api_key=api_key or "none",
        admin_api_key="",
        webhook_secret="",
        base_url=base_url,
        max_retries=0,
        default_headers=unset,
        http_client=httpx2.AsyncClient(
            limits=limits,
            timeout=httpx2.Timeout(None, connect=CONNECT_S, pool=CONNECT_S),
            follow_redirects=False,
            trust_env=False,
        ),
    )


def _description(settings: BackendSettings, base_url: str) -> ModelDescription:
    listed = look_up(settings.source, base_url)
    place = hashlib.sha256(" ".join((base_url, *sorted(settings.omit))).encode()).hexdigest()[:8]
    return ModelDescription(
        version=f"{settings.source}:{place}",
        context_tokens=listed.context_tokens,
        logprobs=True,
        price=settings.price or listed.price,
    )


def _arguments(settings: BackendSettings, base_url: str, request: GenerationRequest) -> dict[str, Any]:
    """The body of the call, without what the request leaves to the model or the model does not take."""
    sampling = request.sampling
    arguments: dict[str, Any] = {
        "model": settings.source,
        "messages": [{"role": turn.role.value, "content": turn.text} for turn in request.conversation],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
    }
    if sampling.top_p < 1:
        arguments["top_p"] = sampling.top_p
    if sampling.max_tokens:
        # OpenAI itself no longer takes the old name; many other servers do not know the new one.
        name = "max_completion_tokens" if base_url.rstrip("/") == VENDOR else "max_tokens"
        arguments[name] = sampling.max_tokens
    if sampling.stop:
        arguments["stop"] = list(sampling.stop[:_STOPS_UPSTREAM])
    if sampling.seed is not None:
        arguments["seed"] = sampling.seed
    if request.logprobs:
        arguments["logprobs"] = True
        arguments["top_logprobs"] = request.top_logprobs
    return {name: value for name, value in arguments.items() if name not in settings.omit}
