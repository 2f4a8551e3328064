from __future__ import annotations

import random

import pytest

from headgate.worker.backends.stops import StopStrings


def run(strings: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    stops = StopStrings(strings)
    text = "".join(stops.feed(piece) for piece in pieces)
    return text + ("" if stops.met else stops.rest()), stops.met


@pytest.mark.parametrize(
    ("strings", "pieces", "text", "met"),
    [
        ((), ["a", "b"], "ab", False),
        (("abcd", "c"), ["abc", "d"], "ab", True),
        (("abcd", "c"), ["abcd"], "ab", True),
        (("b",), ["abc"], "a", True),
        (("bc",), ["ab", "cd"], "a", True),
        (("bcd",), ["ab", "c", "de"], "a", True),
        (("bcd",), ["ab", "c", "e"], "abce", False),
        (("bcd",), ["ab", "c"], "abc", False),
        (("cd", "bc"), ["a", "b", "c", "d"], "a", True),
        (("aab",), ["a", "a", "a", "b"], "a", True),
        (("a",), ["a"], "", True),
    ],
)
def test_cuts_before_the_first_stop_string(
    strings: tuple[str, ...], pieces: list[str], text: str, met: bool
) -> None:
    assert run(strings, pieces) == (text, met)


def test_nothing_comes_after_a_stop_string() -> None:
    stops = StopStrings(("x",))
    assert [stops.feed(piece) for piece in ("ax", "b", "c")] == ["a", "", ""]
    assert stops.rest() == ""


def test_gives_what_is_sure_at_once() -> None:
    stops = StopStrings(("12",))
    assert [stops.feed(piece) for piece in ("a", "1", "b", "1", "2")] == ["a", "", "1b", "", ""]


def test_borders_never_matter(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(2000):
        text = "".join(rng.choices("ab", k=rng.randrange(12)))
        strings = tuple("".join(rng.choices("ab", k=rng.randrange(1, 4))) for _ in range(rng.randrange(3)))
        pieces: list[str] = []
        rest = text
        while rest:
            size = rng.randrange(1, 4)
            pieces, rest = [*pieces, rest[:size]], rest[size:]
        assert run(strings, pieces) == run(strings, list(text))
        assert run(strings, pieces)[1] == any(string in text for string in strings)
