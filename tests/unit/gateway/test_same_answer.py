"""What passes for the same answer, and what must not."""

from __future__ import annotations

import re
import time

import pytest

from headgate.gateway.same_answer import MOST, same_answer

LAST_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris", "paris."),
        ("It is  Paris.", "it is paris"),
        ("Yes!", "yes"),
        ("PARIS", "Paris"),
        ("ｆｕｌｌ width", "full width"),
        ("two\nlines", "two lines"),
        ("caf\u00e9", "cafe\u0301"),
        ("", ""),
    ],
)
def test_what_never_carries_meaning_is_passed_over(one: str, other: str) -> None:
    assert same_answer(one, other)
    assert same_answer(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5 mW", "5 MW"),
        ("use x", "use X"),
        ("2⁵", "25"),
        ("1½", "11⁄2"),
        ("H₂O", "H2O"),
        ("5!", "5"),
        ("Is it Paris?", "It is Paris."),
        ("yes?", "yes"),
        ("iPhone", "IPHONE"),
        ("if x:\n  a\nb", "if x:\n  a\n  b"),
        ("```\nTrue\n```", "```\ntrue\n```"),
        ("-3", "3"),
        ("not Paris", "Paris"),
        ("", "x"),
    ],
)
def test_what_may_carry_meaning_is_another_answer(one: str, other: str) -> None:
    assert not same_answer(one, other)
    assert not same_answer(other, one)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("17 + 25 = 42", "The result is 42.", True),
        ("17 + 25 = 42", "42, from 17 and 26", False),
        ("there is none", "There is none.", True),
        ("there is none", "It is 42", False),
        ("no number", "no such number", False),
    ],
)
def test_a_pattern_says_what_counts(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other, LAST_NUMBER) is same
    assert same_answer(other, one, LAST_NUMBER) is same


def test_a_pattern_without_a_group_counts_whole() -> None:
    assert same_answer("so: yes", "it is yes", re.compile("yes|no"))
    assert not same_answer("so: yes", "it is no", re.compile("yes|no"))
    assert not same_answer("so: yes", "so: no", re.compile("x*"))
    assert not same_answer("so.", "so", re.compile("[.]"))


def test_a_very_long_text_is_compared_to_the_letter() -> None:
    text = "Ångström " * (MOST // 9)
    assert same_answer(text, f"{text}.")
    longer = text + "!" * 9
    assert not same_answer(longer, f"{longer}.")
    assert same_answer(longer, f" {longer}\n")


def test_a_very_long_text_takes_no_longer_than_a_long_one() -> None:
    text = "Ångström " * (MOST // 9)
    assert _took(text * 10) < _took(text)


def _took(text: str) -> float:
    started = time.process_time()
    same_answer(f"{text}a", f"{text}b")
    return time.process_time() - started
