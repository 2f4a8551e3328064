"""A kept answer, and its form in Redis: stamp, digest of its key, facts, log-probabilities, answer."""

from __future__ import annotations

import json
import math
import struct
from array import array
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from headgate.v1 import router_pb2

STAMP_BYTES: Final = 8
"""Random and first, so that Redis can tell an entry from the one that took its place."""
DIGEST_BYTES: Final = 32
_HEAD: Final = struct.Struct(f"<{STAMP_BYTES}s{DIGEST_BYTES}sHI")
"""Stamp, digest, then how long the facts are and how many log-probabilities follow."""
FACTS_BYTES: Final = 8192
"""All that `facts` reads stands in so many: at most 64 tags of 64 bytes, and a few names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer that may be given again. Nobody changes its messages: many requests hold them."""

    stamp: bytes
    answer: router_pb2.GenerateResponse
    """With the decision it came from: model, estimates, bundle, policy and certificate version."""
    made_at: float
    """POSIX seconds when its request began: what it says is as old as that."""
    expires_at: float
    took_s: float
    """Seconds from its request's begin to its end."""
    terms: str = ""
    """What a draft was read under; empty where none was."""
    tags: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = field(default=(), repr=False)
    """Of a draft that was accepted, so that it can be read again."""

    @property
    def model(self) -> str:
        """Whose answer it is."""
        return self.answer.decision.model


@dataclass(frozen=True, slots=True)
class Facts:
    """What a purge goes by."""

    made_at: float
    model: str
    tags: tuple[str, ...]


def sealed(digest: bytes, entry: Entry) -> bytes:
    """The entry's bytes under the key of that digest."""
    told_of = [entry.made_at, entry.expires_at, round(entry.took_s, 4), entry.terms, entry.tags, entry.model]
    told = json.dumps(told_of, separators=(",", ":")).encode()
    head = _HEAD.pack(entry.stamp, digest, len(told), len(entry.logprobs))
    return b"".join((head, told, array("f", entry.logprobs).tobytes(), entry.answer.SerializeToString()))


def opened(digest: bytes, value: bytes) -> Entry | None:
    """The entry in these bytes; None where they are none, or stand under a foreign key."""
    try:
        stamp, owner, length, count = _HEAD.unpack_from(value)
        told = _HEAD.size + length
        text = told + 4 * count
        if owner != digest or len(value) < text:
            return None
        made_at, expires_at, took_s, terms, tags, _ = json.loads(value[_HEAD.size : told])
        logprobs = array("f", value[told:text])
        answer = router_pb2.GenerateResponse.FromString(value[text:])
    except (struct.error, ValueError, TypeError, DecodeError):
        return None
    entry = Entry(stamp, answer, made_at, expires_at, took_s, terms, tuple(tags), tuple(logprobs))
    return entry if _sane(entry) else None


def facts(digest: bytes, begin: bytes) -> Facts | None:
    """Of the entry whose value begins so, with 8 KiB where it has them; None as for `opened`."""
    try:
        _, owner, length, _ = _HEAD.unpack_from(begin)
        made_at, _, _, _, tags, model = json.loads(begin[_HEAD.size : _HEAD.size + length])
        known = Facts(made_at, model, tuple(tags))
    except (struct.error, ValueError, TypeError):
        return None
    return known if owner == digest and isinstance(made_at, int | float) else None


def _sane(entry: Entry) -> bool:
    times = (entry.made_at, entry.expires_at, entry.took_s)
    return all(isinstance(one, int | float) and math.isfinite(one) for one in times)
