"""A canary is found in every spelling that a library might give it, and nothing else is."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.faults.canaries import Canaries


@pytest.mark.parametrize("kind", ["prompt", "key"])
def test_a_canary_is_found_however_it_is_written(seed: int, tmp_path: Path, kind: str) -> None:
    canaries = Canaries(seed)
    value = getattr(canaries, kind)
    spellings = [
        value,
        json.dumps({"x": value}),
        repr(value.encode()),
        quote(value),
        value.encode().hex(),
        *(base64.b64encode(b"x" * shift + value.encode() + b"yy").decode() for shift in range(5)),
    ]
    for text in spellings:
        assert {hit.canary for hit in canaries.found(f"before {text} after")} == {kind}, text
    (tmp_path / "log").write_text(spellings[0])
    assert {hit.where for hit in canaries.found(tmp_path)} == {str(tmp_path / "log")}


def test_what_is_no_canary_is_not_found(seed: int) -> None:
    canaries = Canaries(seed)
    assert canaries.found(None, b"", "prompt answer key", Canaries(seed + 1).prompt) == []
    assert not hasattr(canaries, "no_such_kind")
