"""What the built-in scorers say of right, wrong, odd and hostile answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from headgate.adapters.config import ScorerConfig
from headgate.adapters.samples import Sample
from headgate.cli.outcomes import scorers
from headgate.cli.state import CommandError
from tests.integration.gateway_rig import wait_for
from tests.unit.sample_rig import SAMPLE, answer


def said(small: str, large: str, **fields: object) -> Sample:
    return replace(SAMPLE, answers=(answer("small", text=small), answer("large", text=large)), **fields)  # type: ignore[arg-type]


def nobody(_prompt: str) -> str:
    pytest.fail("no judge is asked here")


def score(sample: Sample, ask: Callable[[str], str] = nobody, **config: object) -> dict[str, float]:
    return dict(scorers.build(ScorerConfig.model_validate(config), ask, None).score(sample))


def test_exact_compares_with_the_label() -> None:
    sample = said(" 42\n", "41", labels={"gold": "42"})
    assert score(sample, kind="exact", label="gold") == {"small": 1.0, "large": 0.0}
    assert score(sample, kind="exact") == {}, "without its label a query has no verdict"


def test_regex_finds_the_pattern_anywhere() -> None:
    assert score(said("so: 42!", "forty"), kind="regex", pattern=r"\b42\b") == {"small": 1.0, "large": 0.0}


@pytest.mark.parametrize(
    ("text", "keys", "right"),
    [('{"a": 1, "b": 2}', ("a",), True), ('{"b": 2}', ("a",), False), ("[1]", (), True),
     ("[1]", ("a",), False), ("", (), False), ("{", (), False), ("[" * 100_000, (), False),
     ("text", (), False)],
)  # fmt: skip
def test_json_is_valid_and_has_the_keys(text: str, keys: tuple[str, ...], right: bool) -> None:
    assert scorers.is_json(text, keys) is right


GREP = (sys.executable, "-c", "import sys; sys.exit('42' not in sys.stdin.read())")


def test_a_command_reads_the_answer_and_says_it_with_its_exit_status() -> None:
    assert score(said("42", "41"), kind="command", command=GREP) == {"small": 1.0, "large": 0.0}


def test_a_command_that_takes_too_long_ends_with_all_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    forks = f"sh -c 'echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600' & wait"
    assert not scorers.passes(("sh", "-c", forks), "x", 2, None)
    wait_for(lambda: _gone(int(pid.read_text())), what="the command's child to end")


def _gone(pid: int) -> bool:
    """Also one that its new parent has not reaped."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_command_sees_no_variables_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_KEY", "id.secret")
    looks = "import os, sys; sys.exit(any(name.startswith('HEADGATE') for name in os.environ))"
    assert scorers.passes((sys.executable, "-c", looks), "x", 30, None)


def test_a_command_starts_in_an_empty_folder() -> None:
    looks = "import os, sys; sys.exit(bool(os.listdir('.')))"
    assert scorers.passes((sys.executable, "-c", looks), "x", 30, None)


def test_a_command_that_does_not_read_or_talks_much_is_no_trouble() -> None:
    assert scorers.passes(("true",), "x" * 1_000_000, 30, None)
    talks = "import sys; sys.stdout.write('y' * 1_000_000)"
    assert scorers.passes((sys.executable, "-c", talks), "x", 30, None)


def test_a_command_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(CommandError, match=r"shadow\.scorer\.command: no-such-program: No such file"):
        scorers.passes(("no-such-program",), "x", 1, None)


def judged(sample: Sample, *replies: str) -> tuple[dict[str, float], list[str]]:
    left, prompts = list(replies), []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return left.pop(0)

    found = score(sample, ask, kind="judge", model="large")
    assert not left
    return found, prompts


def test_the_judge_sees_both_orders() -> None:
    _, (first, second) = judged(said("mine", "theirs"), "A", "B")
    assert first.index("mine") < first.index("theirs")
    assert second.index("theirs") < second.index("mine")
    assert f"user: {SAMPLE.query}" in first


@pytest.mark.parametrize(
    ("replies", "small", "large"),
    [
        (("A", "B"), 1.0, 0.0),
        (("B", "A"), 0.0, 1.0),
        (("T", "T"), 0.5, 0.5),
        (("A", "A"), 0.5, 0.5),
        (("B", "B"), 0.5, 0.5),
        (("A", "T"), 0.5, 0.5),
        ((" **A**, because", "B."), 1.0, 0.0),
    ],
)
def test_a_judge_that_changes_its_mind_with_the_places_has_seen_a_tie(
    replies: tuple[str, str], small: float, large: float
) -> None:
    assert judged(said("mine", "theirs"), *replies)[0] == {"small": small, "large": large}


@pytest.mark.parametrize("reply", ["", "Both are fine.", "a", "C", "Answer"])
def test_a_reply_that_is_no_verdict_gives_no_quality(reply: str) -> None:
    assert judged(said("mine", "theirs"), reply, "A")[0] == {}


def test_equal_answers_are_a_tie_without_asking() -> None:
    assert judged(said("same", "same")) == ({"small": 0.5, "large": 0.5}, [])


def test_of_more_than_two_each_is_held_against_the_reference() -> None:
    middle = answer("middle", text="between")
    sample = said("mine", "theirs")
    three = replace(sample, answers=(*sample.answers, middle))
    assert judged(three, "A", "B", "B", "A")[0] == {"small": 1.0, "middle": 0.0, "large": 0.5}


def test_braces_in_an_answer_are_only_text() -> None:
    assert judged(said("{a} {0}", "{conversation}"), "A", "B")[0] == {"small": 1.0, "large": 0.0}
