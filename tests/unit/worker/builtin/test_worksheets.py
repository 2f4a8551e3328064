"""Worksheets: right, graded, told apart from chat, and never in two splits."""

from __future__ import annotations

import operator
from collections import Counter
from random import Random

import pytest

from headgate.worker.backends.builtin.worksheets import (
    FAMILIES,
    LEVELS,
    MAX_ANSWER_BYTES,
    MAX_QUESTION_BYTES,
    MIX,
    SPLITS,
    Split,
    Worksheet,
    balanced,
    batch,
    check,
    draw,
    draw_of,
    recognise,
    split_of,
)
from headgate.worker.backends.builtin.worksheets.world import number_words, roman

CELLS = [(family, level) for family in FAMILIES for level in range(LEVELS)]


@pytest.fixture
def rng(seed: int) -> Random:
    return Random(seed)


@pytest.mark.parametrize(("family", "level"), CELLS)
def test_a_worksheet_is_two_short_lines_of_ascii(rng: Random, family: str, level: int) -> None:
    for _ in range(100):
        sheet = draw_of(rng, "train", family, level)
        assert (sheet.family, sheet.level) == (family, level)
        assert 1 <= len(sheet.question) <= MAX_QUESTION_BYTES
        assert 1 <= len(sheet.answer) <= MAX_ANSWER_BYTES
        assert (sheet.question + sheet.answer).isascii()
        assert (sheet.question + sheet.answer).isprintable()


@pytest.mark.parametrize(("family", "level"), CELLS)
def test_a_question_has_the_shape_of_its_own_family_only(rng: Random, family: str, level: int) -> None:
    for _ in range(100):
        question = draw_of(rng, "test", family, level).question
        assert [name for name, kind in FAMILIES.items() if kind.recognises(question)] == [family]
        assert recognise(f"  {question}\n") == family


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "What is the capital of France?",
        "Write a poem in Roman style",
        "12 + 30",
        "12 + 30 = ? and then double it",
        "Sort up: apples, pears",
        "Reverse the order of the list",
        "How many vowels in English?",
        "12 + 30 = ?\n13 + 31 = ?",
        "١٢ + ٣٠ = ?",
    ],
)
def test_anything_else_is_no_worksheet(text: str) -> None:
    assert recognise(text) is None


@pytest.mark.parametrize("split", SPLITS)
def test_a_batch_follows_from_its_seed(seed: int, split: Split) -> None:
    first, again, other = batch(seed, 300, split), batch(seed, 300, split), batch(seed + 1, 300, split)
    assert first == again
    assert first != other
    assert first[:100] == batch(seed, 100, split)


def test_no_question_is_in_two_splits(seed: int) -> None:
    questions = {split: {sheet.question for sheet in batch(seed, 2000, split)} for split in SPLITS}
    for split, found in questions.items():
        assert len(found) == 2000
        assert {split_of(question) for question in found} == {split}


def test_every_cell_has_enough_fresh_questions_for_an_evaluation(seed: int) -> None:
    sheets = batch(seed, 5000)
    assert len({sheet.question for sheet in sheets}) == 5000
    used = {sheet.question for sheet in sheets}
    assert used.isdisjoint(sheet.question for sheet in batch(seed + 1, 2000, exclude=used))


def test_the_mix_is_what_it_says(seed: int) -> None:
    sheets = batch(seed, 5000)
    for family, share in MIX.items():
        assert sum(sheet.family == family for sheet in sheets) / 5000 == pytest.approx(share, abs=0.02)
    assert len(FAMILIES) >= 14
    specialities = [MIX[name] for name, family in FAMILIES.items() if family.speciality]
    assert len(specialities) == 2
    assert all(0.06 <= share <= 0.08 for share in specialities)
    assert sum(MIX.values()) == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 71, 300, 10_000])
def test_a_balanced_batch_deals_every_cell_its_share(seed: int, n: int) -> None:
    sheets = balanced(seed, n)
    assert sheets == balanced(seed, n)
    assert len({sheet.question for sheet in sheets}) == n
    assert {split_of(sheet.question) for sheet in sheets} == {"test"}
    dealt = Counter((sheet.family, sheet.level) for sheet in sheets)
    for family, share in MIX.items():
        for level in range(LEVELS):
            assert abs(dealt[family, level] - n * share / LEVELS) < 1


def test_a_balanced_batch_does_not_come_family_by_family(seed: int) -> None:
    families = [sheet.family for sheet in balanced(seed, 300)]
    assert sum(map(operator.eq, families, families[1:])) < 60


@pytest.mark.parametrize("family", ["spell", "ladder"])
def test_two_families_have_long_answers(rng: Random, family: str) -> None:
    for level in range(LEVELS):
        lengths = [len(draw_of(rng, "train", family, level).answer) for _ in range(100)]
        assert min(lengths) >= 60
        assert max(lengths) <= 200


def test_an_exhausted_cell_says_which_one(rng: Random) -> None:
    class Everything:
        def __contains__(self, question: object) -> bool:
            return True

    with pytest.raises(
        ValueError, match=r"family '\w+', level \d has no unused question left in split 'test'"
    ):
        batch(1, 1, exclude=Everything())


@pytest.mark.parametrize(
    ("answer", "score"), [("42", 1.0), (" 42 \n", 1.0), ("43", 0.0), ("4 2", 0.0), ("", 0.0)]
)
def test_an_answer_is_right_or_wrong(answer: str, score: float) -> None:
    assert check(Worksheet("add", 0, "12 + 30 = ?", "42"), answer) == score


def test_sums_differences_and_products_are_right(rng: Random) -> None:
    signs = {"add": "+", "sub": "-", "mul": "*"}
    for family, sign in signs.items():
        for level in range(LEVELS):
            sheet = draw_of(rng, "train", family, level)
            numbers = [int(word) for word in sheet.question.split() if word.isdigit()]
            if sign == "+":
                assert int(sheet.answer) == sum(numbers)
            elif sign == "-":
                assert int(sheet.answer) == numbers[0] - numbers[1] >= 0
            else:
                assert int(sheet.answer) == numbers[0] * numbers[1]


def test_a_ladder_climbs_in_its_steps(rng: Random) -> None:
    for level in range(LEVELS):
        sheet = draw_of(rng, "train", "ladder", level)
        words = sheet.question.split()
        start, end, step = int(words[2]), int(words[4]), int(words[-1])
        assert [int(term) for term in sheet.answer.split()] == list(range(start, end + 1, step))


def test_logic_is_what_python_makes_of_it_from_left_to_right(rng: Random) -> None:
    operators = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
    for _ in range(200):
        sheet = draw_of(rng, "train", "logic", rng.randrange(LEVELS))
        facts, expression = sheet.question.rstrip("?").split(": ")
        values = {fact[0]: fact[2] == "T" for fact in facts.split()}
        words = expression.replace("not ", "~").split()
        result = values[words[0]]
        for word, name in zip(words[1::2], words[2::2], strict=True):
            result = operators[word](result, values[name[-1]] is not name.startswith("~"))
        assert sheet.answer == ("T" if result else "F")


@pytest.mark.parametrize(
    ("number", "numeral"), [(1, "I"), (4, "IV"), (90, "XC"), (1994, "MCMXCIV"), (3999, "MMMCMXCIX")]
)
def test_roman_numerals(number: int, numeral: str) -> None:
    assert roman(number) == numeral


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (7, "seven"),
        (40, "forty"),
        (300, "three hundred"),
        (4015, "four thousand fifteen"),
        (21_000, "twenty one thousand"),
        (99_999, "ninety nine thousand nine hundred ninety nine"),
    ],
)
def test_number_words(number: int, words: str) -> None:
    assert number_words(number) == words


def test_a_draw_keeps_to_its_split(rng: Random) -> None:
    assert all(split_of(draw(rng, "router").question) == "router" for _ in range(200))
