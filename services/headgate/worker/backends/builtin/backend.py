"""Serves a model of the built-in pair: the last user turn is the worksheet, anything else is declined."""

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
    Token,
    Usage,
    question,
)
from headgate.worker.backends.builtin import engine
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
    """`source` is `small`, `large`, or the path of an ONNX file made by `make models`."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        threads = min(settings.slots, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="engine")

    async def load(self) -> None:
        """Reads the weights."""
        self._engine, self._description = await asyncio.get_running_loop().run_in_executor(
            self._threads, _load, self._settings
        )

    def describe(self) -> ModelDescription:
        """The version is a digest of the weights; the price is the measured one of the model card."""
        return self._description

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """The answer to the last user turn; an engine thread writes it, at most a byte past a cancel."""
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

    def _steps(self, worksheet: str, sampling: Sampling) -> Generator[engine.Step, None, None]:
        return self._engine.decode(worksheet, _sampling(sampling))

    def _write(self, worksheet: str, request: GenerationRequest, post: Post, left: threading.Event) -> None:
        """Runs in an engine thread: posts the answer until it ends or the caller has left."""
        pacer = Pacer()
        try:
            with closing(self._steps(worksheet, request.sampling)) as steps:
                chunks = _chunks(steps, request, len(encode(worksheet)) + 1)
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


def _load(settings: BackendSettings) -> tuple[engine.Engine, ModelDescription]:
    weights = _weights(settings.source)
    try:
        loaded = engine.Engine(weights)
    except Exception as error:
        raise NotLoadableError(f"the weights of {settings.source!r} are broken: rebuild them") from error
    version = engine.model_version(hashlib.sha256(weights).hexdigest())
    price = settings.price or _measured_price(settings.source)
    return loaded, ModelDescription(version, CONTEXT, logprobs=True, price=price)


def _weights(source: str) -> bytes:
    file: Traversable = _WEIGHTS / f"{source}.onnx" if source in engine.MODELS else Path(source)
    try:
        return file.read_bytes()
    except OSError:
        raise NotLoadableError(
            f"source {source!r}: there are no such weights; say `small`, `large` (`make models` builds both) "
            "or the path of an ONNX file"
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


def _chunks(steps: Iterable[engine.Step], request: GenerationRequest, prompt_tokens: int) -> Iterator[Chunk]:
    """A chunk per byte; the final one comes with the end byte, a stop string or the end of the room."""
    stops, written = StopStrings(request.sampling.stop), 0
    for written, step in enumerate(steps, start=1):
        text = stops.feed(step.text) if step.token_id != END else stops.rest()
        tokens = (_token(step, request.top_logprobs),) if request.logprobs else ()
        if step.token_id == END or stops.met:
            yield Chunk(text, tokens, FinishReason.STOP, Usage(prompt_tokens, written))
            return
        yield Chunk(text, tokens)
    yield Chunk(stops.rest(), (), FinishReason.LENGTH, Usage(prompt_tokens, written))


def _token(step: engine.Step, top: int) -> Token:
    alternatives = tuple(
        Alternative(token, min(0.0, logprob), decode([token])) for token, logprob in step.alternatives[:top]
    )
    return Token(step.token_id, min(0.0, step.logprob), alternatives)
