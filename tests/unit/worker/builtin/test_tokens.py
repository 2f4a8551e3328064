"""Bytes as tokens."""

from __future__ import annotations

import numpy as np

from headgate.worker.backends.builtin.tokens import END, UNKNOWN, decode, encode, windows


def test_ascii_text_survives() -> None:
    text = "".join(map(chr, range(32, 127)))
    assert decode(encode(text)) == text


def test_what_has_no_token_of_its_own() -> None:
    assert encode("a\nb") == [ord("a"), ord(" "), ord("b")]
    assert encode("é") == [UNKNOWN, UNKNOWN]
    assert decode([ord("4"), END]) == "4"


def test_windows_look_three_bytes_back() -> None:
    rows = windows(np.array([[5, 6, 7, 8, 9]], np.int32))
    assert rows.shape == (1, 5, 4)
    assert rows[0, 0].tolist() == [5, 0, 0, 0]
    assert rows[0, 2].tolist() == [7, 6, 5, 0]
    assert rows[0, 4].tolist() == [9, 8, 7, 6]
