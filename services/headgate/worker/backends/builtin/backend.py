"""Serves a model of the built-in pair: the last user turn is the worksheet, anything else is declined.

With a `draft_source` the model decodes speculatively: the answers are its own, with fewer forward passes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from time import monotonic

from headgate.worker.backends.base import (
    Alternative,
    BackendSettings,
    Chunk,
    ContextTooLongError,
    Conversation,
    DeadlinePassedError,
    FinishReason,
    GenerationRequest,
    ModelDescription,
    NotLoadableError,
    Price,
    Sampling,
    Speculation,
    Token,
    Usage,
    question,
)
from headgate.worker.backends.builtin import engine, speculative
from headgate.worker.backends.builtin.tokens import CONTEXT, END, decode, encode
from headgate.worker.backends.builtin.worksheets import recognise
from headgate.worker.backends.stops import StopStrings
from headgate.worker.pacing import Pacer

DECLINED = 'I only answer worksheets, such as "12 + 30 = ?", and this is none that I know.'
_WEIGHTS = resources.files("headgate.worker.backends.builtin") / "weights"
_LONGEST = 256
_SEED_MASK = (1 << 64) - 1

Post = Callable[[Chunk | Exception], None]


class BuiltinBackend:
    """`source` is `small`, `large`, or the path of an ONNX file made by `make models`; `draft_source` is
    another of these, or empty."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        threads = min(settings.slots, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="engine")

    async def load(self) -> None:
        """Reads the weights."""
        self._engine, self._pair, self._description = await asyncio.get_running_loop().run_in_executor(
            self._threads, _load, self._settings
        )

    def describe(self) -> ModelDescription:
        """The version is a digest of the weights; the price is the measured one of the model card.

        Both are the target model's, with a draft model or without, so that cached answers and certificates
        hold when one comes or goes: a version says whose answers these are. Greedy ones, the only ones that
        are cached, are the same up to rounding, as are those of a batch, which certificates are made from.
        Drawn ones have the same distribution; which draw a seed repeats differs, and no certificate speaks
        of it.
        """
        return self._description

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """The answer to the last user turn; an engine thread writes it, at most a forward pass past a cancel.

        With a draft model that is one of the target model, and the drafts for it.
        """
        worksheet = _worksheet(request.conversation)
        if recognise(worksheet) is None:
            yield Chunk(DECLINED, (), FinishReason.DECLINED, Usage(0, 0))
            return
        loop = asyncio.get_running_loop()
        mail: asyncio.Queue[Chunk | Exception] = asyncio.Queue()
        left = threading.Event()

        def post(letter: Chunk | Exception) -> None:
            loop.call_soon_threadsafe(mail.put_nowait, letter)

        writing = loop.run_in_executor(self._threads, self._write, worksheet, request, post, left)
        try:
            finished = False
            while not finished:
                chunk = _opened(await mail.get())
                finished = chunk.finish_reason is not None
                yield chunk
        finally:
            left.set()
            writing.cancel()

    async def close(self) -> None:
        """Waits for the engine's threads."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def _steps(
        self, worksheet: str, sampling: Sampling
    ) -> tuple[Generator[engine.Step, None, None], speculative.Tally | None]:
        """The answer, and what is counted while it is written where there is a draft model."""
        if self._pair is None:
            return self._engine.decode(worksheet, _sampling(sampling)), None
        tally = speculative.Tally()
        return self._pair.decode(worksheet, _sampling(sampling), tally), tally

    def _write(self, worksheet: str, request: GenerationRequest, post: Post, left: threading.Event) -> None:
        """Runs in an engine thread: posts the answer until it ends or the caller has left."""
        pacer = Pacer()
        try:
            writing, tally = self._steps(worksheet, request.sampling)
            with closing(writing) as steps:
                chunks = _chunks(steps, request, len(encode(worksheet)) + 1, tally)
                while not left.is_set():
                    chunk, now = next(chunks), _before(request.deadline)
                    message = pacer.add(chunk, now)
                    if message is not None:
                        post(message)
                    if chunk.finish_reason is not None:
                        return
        except Exception as error:
            post(error)


def _opened(letter: Chunk | Exception) -> Chunk:
    if isinstance(letter, Exception):
        raise letter
    return letter


def _before(deadline: float) -> float:
    """Now, if the deadline has not passed."""
    now = monotonic()
    if now >= deadline:
        raise DeadlinePassedError("the deadline passed before the answer was finished")
    return now


def _load(settings: BackendSettings) -> tuple[engine.Engine, speculative.Pair | None, ModelDescription]:
    weights = _weights("source", settings.source)
    loaded = _engine(settings.source, weights)
    pair = None
    if settings.draft_source:
        draft = _engine(settings.draft_source, _weights("draft_source", settings.draft_source))
        pair = speculative.Pair(loaded, draft)
    version = engine.model_version(hashlib.sha256(weights).hexdigest())
    price = settings.price or _measured_price(settings.source)
    return loaded, pair, ModelDescription(version, CONTEXT, logprobs=True, price=price)


def _engine(source: str, weights: bytes) -> engine.Engine:
    try:
        return engine.Engine(weights)
    except Exception as error:
        raise NotLoadableError(f"the weights of {source!r} are broken: rebuild them") from error


def _weights(setting: str, source: str) -> bytes:
    file: Traversable = _WEIGHTS / f"{source}.onnx" if source in engine.MODELS else Path(source)
    try:
        return file.read_bytes()
    except OSError:
        raise NotLoadableError(
            f"{setting} {source!r}: there are no such weights; say `small`, `large` (`make models` builds "
            "both) or the path of an ONNX file"
        ) from None


def _measured_price(source: str) -> Price | None:
    """The price that follows from measured CPU time. None for weights that the manifest does not list."""
    try:
        listed = json.loads((_WEIGHTS / "manifest.json").read_bytes())[source]["price"]
    except (OSError, KeyError):
        return None
    return Price(listed["input_nanousd"], listed["output_nanousd"])


def _worksheet(conversation: Conversation) -> str:
    """The last user turn without the space around it, if the context has room for it and an answer."""
    worksheet = question(conversation).strip()
    size = len(encode(worksheet)) + 1
    if size >= CONTEXT:
        raise ContextTooLongError(f"the last user turn has {size} tokens; fewer than {CONTEXT} fit")
    return worksheet


def _sampling(sampling: Sampling) -> engine.Sampling:
    return engine.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=None if sampling.seed is None else sampling.seed & _SEED_MASK,
        max_tokens=sampling.max_tokens or _LONGEST,
    )


def _chunks(
    steps: Iterable[engine.Step],
    request: GenerationRequest,
    prompt_tokens: int,
    tally: speculative.Tally | None,
) -> Iterator[Chunk]:
    """A chunk per byte; the final one comes with the end byte, a stop string or the end of the room."""
    stops, written = StopStrings(request.sampling.stop), 0
    for written, step in enumerate(steps, start=1):
        text = stops.feed(step.text) if step.token_id != END else stops.rest()
        tokens = (_token(step, request.top_logprobs),) if request.logprobs else ()
        if step.token_id == END or stops.met:
            usage = Usage(prompt_tokens, written)
            yield Chunk(text, tokens, FinishReason.STOP, usage, _speculation(tally))
            return
        yield Chunk(text, tokens)
    usage = Usage(prompt_tokens, written)
    yield Chunk(stops.rest(), (), FinishReason.LENGTH, usage, _speculation(tally))


def _speculation(tally: speculative.Tally | None) -> Speculation | None:
    return None if tally is None else Speculation(tally.drafted, tally.accepted, tally.target_forwards)


def _token(step: engine.Step, top: int) -> Token:
    alternatives = tuple(
        Alternative(token, min(0.0, logprob), decode([token])) for token, logprob in step.alternatives[:top]
    )
    return Token(step.token_id, min(0.0, step.logprob), alternatives)
