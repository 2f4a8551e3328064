"""What semantic answer caches tell each other, as fields of a stream's events and back.

    begin      nothing before this event counts: the stream is new
    entry      a question that has an answer
    audit      whether an entry's answer was the one that a similar question got
    purge      forget what was made until now
    cut        the stream got long: what stands before an event is gone, but not these audits, nor the
               mistakes of entries that are left

What cannot be read may be a purge of a later version, so it is taken for a `begin`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Place: TypeAlias = tuple[int, int]
"""An event's number in its stream: the server's milliseconds, and a count."""
Fields: TypeAlias = dict[bytes, bytes]
_AUDIT: Final = struct.Struct(">16s16sf?")
_PLACED: Final = struct.Struct(">QQ16s16sf?")
_TIMES: Final = struct.Struct(">dd")
_SIZES: Final[Mapping[str, int]] = {"id": 16, "scope": 32, "route": 16, "answer": 32}


@dataclass(frozen=True, slots=True)
class Begin:
    """Nothing before it counts."""


@dataclass(frozen=True, slots=True)
class Added:
    """A question that has an answer, without its words. Times are in POSIX seconds."""

    id: bytes
    """16 bytes. An entry takes the place of an older one with the same id."""
    scope: bytes
    """32 bytes: a digest of the tenant and all that an answer depends on besides the question."""
    route: bytes
    """16 bytes: among which questions errors are counted together."""
    answer: bytes
    """32 bytes: the digest of the key under which the exact cache has the answer."""
    vector: bytes
    """float32, little-endian."""
    facts: bytes
    model: str
    tags: tuple[str, ...]
    made_at: float
    expires_at: float


class Audited(NamedTuple):
    """Whether the entry's answer was the one that a question of this similarity got."""

    route: bytes
    """16 bytes."""
    entry: bytes
    """16 bytes."""
    similarity: float
    """Rounded to float32 by the stream."""
    same: bool


@dataclass(frozen=True, slots=True)
class Purged:
    """Everything of the tenant that was made until then, or what is a model's or has a tag; empty is any."""

    model: str
    tag: str
    until: float
    """POSIX seconds."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Everything before `first` is gone. `audits` are all that count of those until `read`."""

    first: Place
    read: Place
    audits: tuple[tuple[Place, Audited], ...]
    wrong: tuple[tuple[Place, Audited], ...] = ()
    """Of those that do not count any more, what still bars an entry: its worst mistake."""


Event: TypeAlias = Begin | Added | Audited | Purged | Cut


def written(place: Place) -> bytes:
    """As Redis writes it."""
    return b"%d-%d" % place


def place(name: bytes) -> Place:
    """What Redis wrote. Raises ValueError."""
    milliseconds, _, count = name.partition(b"-")
    return int(milliseconds), int(count)


def fields(event: Event) -> Fields:
    """What stands in the stream."""
    match event:
        case Added():
            sized = {name.encode(): getattr(event, name) for name in _SIZES}
            return {
                b"kind": b"entry",
                **sized,
                b"vector": event.vector,
                b"facts": event.facts,
                b"model": event.model.encode(),
                b"tags": json.dumps(event.tags).encode(),
                b"times": _TIMES.pack(event.made_at, event.expires_at),
            }
        case Audited():
            return {b"kind": b"audit", b"audit": _AUDIT.pack(*event)}
        case Purged():
            about = {b"model": event.model.encode(), b"tag": event.tag.encode()}
            return {b"kind": b"purge", **about, b"until": repr(event.until).encode()}
        case Cut():
            audits, wrong = (
                b"".join(_PLACED.pack(*at, *audit) for at, audit in some)
                for some in (event.audits, event.wrong)
            )
            places = {b"first": written(event.first), b"read": written(event.read)}
            return {b"kind": b"cut", **places, b"audits": audits, b"wrong": wrong}
        case Begin():
            return {b"kind": b"begin"}


def event(found: Fields) -> Event:
    """What the fields say; a Begin where that cannot be read."""
    try:
        return _read(found)
    except (KeyError, ValueError, TypeError, struct.error):
        return Begin()


def _read(found: Fields) -> Event:
    match found[b"kind"]:
        case b"entry":
            sized = {name: found[name.encode()] for name in _SIZES}
            if any(len(value) != _SIZES[name] for name, value in sized.items()):
                raise ValueError("a digest has another length")
            made_at, expires_at = _TIMES.unpack(found[b"times"])
            tags, model = _strings(json.loads(found[b"tags"])), found[b"model"].decode()
            return Added(
                **sized, vector=found[b"vector"], facts=found[b"facts"], model=model, tags=tags,
                made_at=made_at, expires_at=expires_at,
            )  # fmt: skip
        case b"audit":
            return Audited(*_AUDIT.unpack(found[b"audit"]))
        case b"purge":
            return Purged(found[b"model"].decode(), found[b"tag"].decode(), float(found[b"until"]))
        case b"cut":
            audits, wrong = (
                tuple(((one[0], one[1]), Audited(*one[2:])) for one in _PLACED.iter_unpack(some))
                for some in (found[b"audits"], found.get(b"wrong", b""))
            )
            return Cut(place(found[b"first"]), place(found[b"read"]), audits, wrong)
        case _:
            return Begin()


def _strings(value: Sequence[object]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("no list of strings")
    return tuple(str(one) for one in value)
