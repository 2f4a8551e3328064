"""Secrets and prompts that exist nowhere else, and a search for them where they must not be.

canaries = Canaries(seed)
... use canaries.prompt, canaries.key … ...
assert canaries.found(log_file, error.details(), redis_dump) == []
"""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Hit:
    """A canary that was found: which one, in which spelling, and where."""

    canary: str
    spelling: str
    where: str


class Canaries:
    """One fresh value for each kind of thing that must stay where it was sent."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(f"canaries {seed}")
        self._values = {kind: f"{kind}-é-{draw.getrandbits(80):020x}" for kind in _TEXTS}
        self._values |= {kind: f"{draw.getrandbits(80):020x}" for kind in _TOKENS}

    def __getattr__(self, kind: str) -> str:
        try:
            return self._values[kind]
        except KeyError:
            raise AttributeError(kind) from None

    def found(self, *places: Path | str | bytes | None) -> list[Hit]:
        """Every canary in a file, all files of a folder, a text or bytes, in any usual spelling."""
        hits = []
        for name, content in (one for place in places for one in _contents(place)):
            for canary, value in self._values.items():
                for spelling, written in _spellings(value).items():
                    if written in content:
                        hits.append(Hit(canary, spelling, name))
        return hits


_TEXTS = ("prompt", "answer", "system", "upstream_body")
_TOKENS = ("key", "session", "label", "upstream_key", "pepper")


def _spellings(value: str) -> dict[str, bytes]:
    """As it is, and as libraries like to write it. Of base64 the middle, which no neighbour changes."""
    raw = value.encode()
    return {
        "plain": raw,
        "json": json.dumps(value)[1:-1].encode(),
        "repr": repr(raw)[2:-1].encode(),
        "url": quote(value, safe="").encode(),
        "hex": raw.hex().encode(),
        **{f"base64 at {shift}": base64.b64encode(bytes(shift) + raw)[4:-4] for shift in range(3)},
    }


def _contents(place: Path | str | bytes | None) -> list[tuple[str, bytes]]:
    if isinstance(place, Path):
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        return [(str(file), file.read_bytes()) for file in files if file.is_file()]
    if isinstance(place, str):
        return [("text", place.encode())]
    return [("bytes", place)] if place else []
