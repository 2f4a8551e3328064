from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headgate.router import lexicon, little_words
from headgate.router.embedding import Embedding
from headgate.router.guards import FACTS_BYTES, READ_WORDS, difference, shared

SAME = [
    ("I need 3 days of rest", "I need three days of rest"),
    ("What is 5% of 200?", "what is five percent of 200"),
    ("two hundred and five cats", "205 cats"),
    ("twenty-five apples", "25 apples"),
    ("the 3rd law", "the third law"),
    ("1,000 sheep", "1000 sheep"),
    ("a $5 bill", "a 5 dollar bill"),
    ("5kg of rice", "5 kilograms of rice"),
    ("a pole 5 m tall", "a pole 5 metres tall"),
    ("meet at 3pm", "meet at 3 pm"),
    ("I can't log in", "I cannot log in"),
    ("Why doesn't it print?", "Why does it not print?"),
    ("Why do n't cats swim?", "Why do cats not swim?"),
    ("What is the capital of France?", "what's the capital of france"),
    ("The weather in Jan", "The weather in January"),
    ("How do I reset my password?", "What's the way to reset a password?"),
    ("Why’s the sky blue", "Why's the sky blue?"),
    ("What is 7-3?", "what is 7 - 3"),
    ("a 5 GB file", "a 5 gb file"),
    ("Is the fee (5 dollars) fair?", "Is the fee, 5 dollars, fair?"),
    ("Can you tell me how I cancel my order?", "How do I cancel my order? Thank you."),
    ("Can you explain how to cancel an order? Thank you.", "How do I cancel my order?"),
    ("I want to know what your name is", "what's your name"),
    ("How can I park here?", "How should I park here?"),
    ("Do I have to pay tax on rent?", "Must I pay tax on rent?"),
    ("Is damage done by water covered?", "Does the plan cover damage that was done by water?"),
    ("What does it cost to list users?", "What does it cost to list all users?"),
    ("In spring, how do cats chase mice?", "How do cats chase mice in spring?"),
    ("Who wrote the book?", "By whom was the book written?"),
    ("Is it safe to eat raw eggs?", "Are raw eggs safe to eat?"),
    ("Is a visa needed by tourists?", "Do tourists need a visa?"),
    ("What year did the war end?", "In which year did the war end?"),
    ("What year did the war end?", "When did the war end?"),
    ("When does the store open?", "What time does the store open?"),
]
OTHERS = {
    "numbers": [
        ("I need 3 days of rest", "I need 4 days of rest"),
        ("Python 3.10 news", "Python 3.1 news"),
        ("the second law", "the third law"),
        ("-5 and up", "5 and up"),
        ("half of the sum", "a third of the sum"),
        ("2 million people", "2 billion people"),
        ("5k people", "5 people"),
    ],
    "negation": [
        ("Can cats eat rice?", "Can't cats eat rice?"),
        ("foods with no gluten", "foods for gluten"),
        ("Is it unsafe to eat raw eggs?", "Is it safe to eat raw eggs?"),
    ],
    "names": [
        ("the capital of france", "the capital of germany"),
        ("Tell me about Apple", "Tell me about Orange"),
        ("how to use frobnix", "how to use blargle"),
        ("a flight from Paris to London", "a flight from London to Paris"),
        ("the ascii code of A", "the ascii code of a"),
        ("should it be a or b", "should it be b"),
        ("who pays taxes in the US", "who pays taxes for us"),
    ],
    "units": [
        ("Convert 5 km to miles", "Convert 5 miles to km"),
        ("a 5 kg bag", "a 5 lb bag"),
        ("What day of which year was it?", "What day of which month was it?"),
        ("price in €", "price in $"),
        ("convert 5 mW to joules", "convert 5 MW to joules"),
        ("convert 5mW to joules", "convert 5MW to joules"),
        ("as long as 3 ms", "as long as 3 Ms"),
        ("at 5 Mb each", "at 5 MB each"),
        ("at 5M each", "at 5m each"),
        ("at 5 mGy", "at 5 MGy"),
    ],
    "dates": [
        ("open on Monday?", "open on Tuesday?"),
        ("weather next week", "weather last week"),
        ("at 3 am", "at 3 pm"),
        ("born in May", "born in June"),
    ],
    "code": [
        ("what does `x` print", "what does `y` print"),
        ("a >= b", "a > b"),
        ("run ls -la", "run ls -l"),
        ("the list.sort() call", "the list.append() call"),
        ("what does 'so long' mean", "what does 'long so' mean"),
        ("what is (3 + 4) * 2", "what is 3 + (4 * 2)"),
        ("what is (a + b) * c", "what is a + (b * c)"),
        ("what is 7-3", "what is 7 3"),
        ("Is it right?\na:\n  b: 1\nc: 2", "Is it right?\na:\n  b: 1\n  c: 2"),
        ("```\nx = 1\n```", "``` x = 1 ```"),
    ],
    "task": [("Summarize this note", "Translate this note")],
    "question": [
        ("Who built the tower?", "When was the tower built?"),
        ("How many were built?", "How long were they built?"),
        ("Can I cancel it?", "How can I cancel it?"),
        ("Who killed the king?", "Who did the king kill?"),
        ("Who should I call?", "Who called?"),
        ("What year did the war end?", "What day did the war end?"),
        ("What year did the war end?", "What month did the war end?"),
        ("What day does the store in Oslo open?", "Which month does the store in Oslo open?"),
        ("what time is it in Oslo", "what date is it in Oslo"),
        ("what day is it in Oslo", "what date is it in Oslo"),
        ("Do you know what year it is?", "Do you know what season it is?"),
        ("What week is the show?", "What time is the show?"),
        ("What time is the show?", "Where is the show?"),
    ],
    "persons": [
        ("what is my name", "what's your name"),
        ("tell me about you", "tell me about me"),
        ("how do I pay the rent", "how do they pay the rent"),
    ],
    "modality": [
        ("can I refund it", "must I refund it"),
        ("Hi, should we go there?", "Could we go there?"),
        ("do I have to cook it", "may I cook it"),
    ],
    "tense": [
        ("when does the store open", "when did the store open"),
        ("how old was he when he left", "how old is he"),
        ("what's the price of rice", "what was the price of rice"),
    ],
    "amount": [("List all users", "List some users"), ("name each prime", "name any prime")],
    "roles": [
        ("how do I pay them", "how do they pay me"),
        ("what did he say to her", "what did she say to him"),
    ],
    "order": [
        ("convert json to xml", "convert xml to json"),
        ("do cats chase mice", "do mice chase cats"),
        ("does a cat chase the mouse", "does a mouse chase the cat"),
        ("are all cats animals", "are all animals cats"),
        ("all cats are animals", "all animals are cats"),
        ("what does a cat eat", "what eats a cat"),
        ("3 apples and 5 pears", "3 pears and 5 apples"),
    ],
    "opposites": [
        ("what to do before running", "what to do after running"),
        ("how to enable cookies", "how to disable cookies"),
        ("What's the date in Oslo?", "What's the time in Oslo?"),
    ],
}


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_ways_to_say_a_thing_agree(words: Embedding, one: str, other: str) -> None:
    assert difference(words.look(one).facts, words.look(other).facts) == ""


@pytest.mark.parametrize(
    ("guard", "one", "other"), [(guard, *pair) for guard, pairs in OTHERS.items() for pair in pairs]
)
def test_each_guard_sees_what_differs(words: Embedding, guard: str, one: str, other: str) -> None:
    a, b = words.look(one).facts, words.look(other).facts
    assert difference(a, b) == difference(b, a) == guard


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_does_not_differ_shares_what_is_looked_for(words: Embedding, one: str, other: str) -> None:
    assert shared(words.look(one).facts) == shared(words.look(other).facts)


def test_what_is_shared_tells_most_guards_apart(words: Embedding) -> None:
    for guard, pairs in OTHERS.items():
        for one, other in pairs:
            same = shared(words.look(one).facts) == shared(words.look(other).facts)
            assert same == (guard in ("question", *little_words.GUARDS, "order", "opposites"))


def test_what_follows_the_words_that_are_read_must_be_the_same(words: Embedding) -> None:
    text = "word " * READ_WORDS
    for ends in (("so", "thus"), ("so be", "so\nbe"), ("so ’be", "so 'be")):
        one, other = (words.look(text + last).facts for last in ends)
        assert difference(one, other) == "rest"


def test_facts_of_another_version_agree_with_nothing(words: Embedding) -> None:
    facts = words.look("anything").facts
    assert difference(facts, facts + b"\0") == "version"


LONGEST = 8_192
PIECES = (
    *lexicon.CARDINALS, *lexicon.SCALES, *lexicon.ORDINALS, *lexicon.AMOUNTS, *lexicon.UNITS,
    *lexicon.AFTER_NUMBERS, *lexicon.DATES, *lexicon.NEGATIONS, *lexicon.AUXILIARIES, *lexicon.WAYS,
    *lexicon.FUNCTION_WORDS, *lexicon.QUESTIONS, "chase", "cats",
    "n't", "'s", "ca", "1st", "3k", "5x", "-", "+", "(3", "4)", "x(",
    "thirty-", "'", "`a", "``", "“x”", "ß", "İ", "²", "٣", "1,000,", "--5", "°C", "10⁹", "#1", "x5th", "~k5",
    "A", "mW", "\ud800", "\n    ", "\n", ".", "?", ",", "!",
)  # fmt: skip
"""What guards look for, and what stands close to it."""


@pytest.mark.parametrize(
    "odd",
    ["“", "‘", "‘a ", "`", '"', "'", "'a ", "“‘", "(“", "a“", "“a”", "``a", "\"a'", "'a", "5x", "a-", "a."],
)
def test_no_text_takes_much_longer_to_look_at_than_a_plain_one(words: Embedding, odd: str) -> None:
    """A plain one takes 1 ms, and what is read to its end for each of its quotes hundreds."""
    assert _times_as_long(words, odd * (LONGEST // len(odd))) < 50


@pytest.mark.parametrize(
    "odd",
    ["a-", "a'", "'a", "ca'", "a.", "isn't-", "1,", "1.", "1:", "1/2-", "5x", "a-a-a-a-a-a- ", "1/2-1/2-3 "],
)
def test_what_is_taken_apart_takes_little_longer_than_a_plain_text(words: Embedding, odd: str) -> None:
    """Twenty times as long where all of its pieces are read."""
    assert _times_as_long(words, odd * (LONGEST // len(odd))) < 10


@pytest.mark.parametrize(
    "odd", ["1" + ",111" * 2040 + ",1", "1,111." + "5" * 8180 + ",1", "a-" * 60 + "a " + "İ" * 8000]
)
def test_nothing_is_read_to_its_end_again_and_again(words: Embedding, odd: str) -> None:
    assert _times_as_long(words, odd) < 20


@pytest.mark.parametrize(
    ("many", "one", "other"),
    [("a-" * 100, "b", "c"), ("1/2-" * 100, "3", "4"), ("don't-" * 100, "cat", "dog")],
)
def test_what_has_too_many_pieces_must_be_the_same(words: Embedding, many: str, one: str, other: str) -> None:
    a, b = (words.look(f"what is {many}{last} in short").facts for last in (one, other))
    assert difference(a, b)
    assert difference(a, words.look(f"What is {many}{one} in short?").facts) == ""


def test_of_a_word_with_many_apostrophes_few_parts_are_read() -> None:
    chained = "'".join(f"{one}{other}" for one in "bcdfghklmnpq" for other in "aeiouy")
    neighbours = int.from_bytes(little_words.read([chained]).links, "little").bit_count()
    assert 0 < neighbours < 5


def _times_as_long(words: Embedding, text: str) -> float:
    return _took(words, text) / _took(words, "ab, " * (LONGEST // 4))


def _took(words: Embedding, text: str) -> float:
    """Seconds of the processor, the least of five."""
    took = []
    for _ in range(5):
        started = time.process_time()
        words.look(text)
        took.append(time.process_time() - started)
    return min(took)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=90),
    st.sampled_from((" ", "", "-", "'", ".")),
)
@example(["Why", "do", "n't", "cats", "swim?"], " ")
@example(["ain", "'", "n't"], "-")
def test_no_text_of_marks_is_too_odd_to_be_looked_at(words: Embedding, pieces: list[str], gap: str) -> None:
    look = words.look(gap.join(pieces))
    assert len(look.facts) == FACTS_BYTES
    assert np.isfinite(look.vector).all()


@settings(deadline=None)
@given(st.text(max_size=200))
@example("9" * 5000 + " thousand and one")
@example("n't")
@example("5kth 3° -5!! 'a' \ud800 ² ½ one and two 1,,2 k th")
def test_any_text_has_facts_of_one_size_and_agrees_with_itself(words: Embedding, text: str) -> None:
    facts = words.look(text).facts
    assert len(facts) == FACTS_BYTES
    assert difference(facts, words.look(text).facts) == ""
