"""Replays answers that were recorded in a JSONL file, so that an evaluation needs no model.

One record a line: what it answers (`query`, `query_sha256` or `query_id`), the `answer`, and, where known,
its tokens and counts; keys that are not named here are ignored.

    {"query": "12 + 30 = ?", "answer": "42"}
    {"query_sha256": "…", "answer": "42", "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 2,
     "tokens": [{"text": "4", "logprob": -0.01, "alternatives": [{"text": "5", "logprob": -4.6}]}, …]}

A query is the last user turn, its SHA-256 that of the UTF-8 text. A request whose `request_id` is a recorded
`query_id` gets that record. The texts of recorded tokens, joined, are the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from headgate.worker.backends.base import (
    Alternative,
    BackendSettings,
    Chunk,
    DeadlinePassedError,
    FinishReason,
    GenerationRequest,
    ModelDescription,
    NotLoadableError,
    NotRecordedError,
    Token,
    Usage,
    question,
)
from headgate.worker.backends.stops import StopStrings

_WORD = re.compile(r"\s*\S+|\s+$")
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A token's text, or a word where no tokens are recorded."""

    text: str
    token: Token | None


@dataclass(frozen=True, slots=True)
class Record:
    """A recorded answer; counts are None where the file has none."""

    pieces: tuple[Piece, ...]
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None


class ReplayBackend:
    """`source` is the path of the file."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._records: dict[str, Record] = {}

    async def load(self) -> None:
        """Reads the whole file."""
        raw = await asyncio.to_thread(_read, self._settings.source)
        self._records = await asyncio.to_thread(_parse, raw, self._settings.source)
        pieces = [piece for record in self._records.values() for piece in record.pieces]
        self._description = ModelDescription(
            version=f"sha256:{hashlib.sha256(raw).hexdigest()[:16]}",
            context_tokens=0,
            logprobs=all(piece.token is not None for piece in pieces),
            price=self._settings.price,
        )

    def describe(self) -> ModelDescription:
        """The version is a digest of the file; the context is not known."""
        return self._description

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """The recorded answer, a token or word at a time. Raises NotRecordedError for any other query."""
        query = question(request.conversation)
        record = self._records.get(_id_key(request.request_id)) or self._records.get(_text_key(query))
        if record is None:
            raise NotRecordedError("the file has no answer to this query")
        if monotonic() >= request.deadline:
            raise DeadlinePassedError("the deadline passed before the answer was replayed")
        for chunk in _chunks(record, request, len(query.encode())):
            yield chunk
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Forgets the records."""
        self._records = {}


def _chunks(record: Record, request: GenerationRequest, query_bytes: int) -> Iterator[Chunk]:
    stops = StopStrings(request.sampling.stop)
    limit = request.sampling.max_tokens or len(record.pieces)
    written = 0
    for piece in record.pieces[:limit]:
        kept = (piece.token,) if request.logprobs and piece.token is not None else ()
        yield Chunk(stops.feed(piece.text), tuple(_cut(token, request.top_logprobs) for token in kept))
        written += 1
        if stops.met:
            break
    whole = written == len(record.pieces) and not stops.met
    usage = _usage(record, written, whole, query_bytes)
    yield Chunk(stops.rest(), (), _finish_reason(record, stops.met, whole), usage)


def _finish_reason(record: Record, stopped: bool, whole: bool) -> FinishReason:
    if stopped:
        return FinishReason.STOP
    return record.finish_reason if whole else FinishReason.LENGTH


def _usage(record: Record, written: int, whole: bool, query_bytes: int) -> Usage:
    """Recorded counts where they hold for what was replayed."""
    prompt = record.prompt_tokens
    tokens = [piece.token for piece in record.pieces]
    completion = record.completion_tokens if whole else None
    estimated = prompt is None or (completion is None and None in tokens)
    return Usage(
        prompt_tokens=-(-query_bytes // _BYTES_PER_TOKEN) if prompt is None else prompt,
        completion_tokens=written if completion is None else completion,
        estimated=estimated,
    )


def _cut(token: Token, top: int) -> Token:
    return Token(token.token_id, token.logprob, token.alternatives[:top])


def _id_key(query_id: str) -> str:
    return f"id:{query_id}"


def _text_key(query: str) -> str:
    return f"sha256:{hashlib.sha256(query.encode()).hexdigest()}"


def _read(source: str) -> bytes:
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise NotLoadableError(
            f"source {source!r}: the recorded answers cannot be read: {error.strerror}"
        ) from None


def _parse(raw: bytes, source: str) -> dict[str, Record]:
    records: dict[str, Record] = {}
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            records[_key(entry)] = _record(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise NotLoadableError(f"{source}:{number}: no record of an answer") from None
    return records


def _key(entry: Mapping[str, Any]) -> str:
    if "query_id" in entry:
        return _id_key(str(entry["query_id"]))
    if "query_sha256" in entry:
        return f"sha256:{str(entry['query_sha256']).lower()}"
    return _text_key(entry["query"])


def _record(entry: Mapping[str, Any]) -> Record:
    pieces = tuple(_piece(token) for token in entry.get("tokens", ())) or _words(entry["answer"])
    if "".join(piece.text for piece in pieces) != entry["answer"]:
        raise ValueError("the tokens do not make the answer")
    return Record(
        pieces=pieces,
        finish_reason=FinishReason(entry.get("finish_reason", FinishReason.STOP.value)),
        prompt_tokens=_count(entry.get("prompt_tokens")),
        completion_tokens=_count(entry.get("completion_tokens")),
    )


def _words(answer: str) -> tuple[Piece, ...]:
    return tuple(Piece(word, None) for word in _WORD.findall(answer))


def _piece(entry: Mapping[str, Any]) -> Piece:
    alternatives = tuple(
        Alternative(int(other.get("token_id", -1)), _logprob(other["logprob"]), str(other["text"]))
        for other in entry.get("alternatives", ())
    )
    return Piece(
        str(entry["text"]), Token(int(entry.get("token_id", -1)), _logprob(entry["logprob"]), alternatives)
    )


def _logprob(value: float) -> float:
    if not value <= 0:
        raise ValueError("a log-probability is above 0")
    return float(value)


def _count(value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 0):
        raise ValueError("a count is not a whole number from 0 on")
    return value
