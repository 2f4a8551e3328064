from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.strict_yaml import YamlError, parse


def test_every_value_knows_its_line():
    document = parse("a: 1\nb:\n  - x\n  - c: 2\n    d: 3\n")
    assert document.data == {"a": 1, "b": ["x", {"c": 2, "d": 3}]}
    assert [document.line_of(path) for path in ((), ("a",), ("b",), ("b", 0), ("b", 1, "d"))] == [
        1,
        1,
        2,
        3,
        5,
    ]
    assert document.line_of(("b", 1, "unknown")) == 4


def test_dates_stay_the_text_that_was_written():
    assert parse("day: 2027-01-31").data == {"day": "2027-01-31"}


def test_an_alias_is_the_same_data_again_without_an_explosion():
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    data = parse("\n".join(lines)).data
    assert isinstance(data, dict)
    assert data["a59"][0] is data["a59"][1]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\na: 2", 2, "twice"),
        ("a:\n  b: 1\n  b: 2", 3, "twice"),
        ("a: &x [*x]", 1, "contain itself"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, "tag"),
        ("a: !custom x", 1, "tag"),
        ("a: !!set {x, y}", 1, "tag"),
        ("a: *nowhere", 1, "not valid YAML"),
        ("a: 1\n b: 2", 2, "not valid YAML"),
        ("? [1]\n: 2", 1, "plain text"),
        ("a: 1\n---\nb: 2", 2, "not valid YAML"),
        ("a: \x07", 1, "characters"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_line(text, line, problem):
    with pytest.raises(YamlError, match=problem) as caught:
        parse(text)
    assert caught.value.line == line


@given(st.text(max_size=60))
def test_any_text_is_data_or_a_yaml_error(text):
    with contextlib.suppress(YamlError):
        parse(text)
