"""Speculative decoding: the target model's own answers, greedy and drawn, in fewer forward passes."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from headgate.worker.backends.builtin import speculative
from headgate.worker.backends.builtin.engine import Engine, Lanes, Sampling, Step, distribution
from headgate.worker.backends.builtin.speculative import Pair, Reach, Tally, residual
from headgate.worker.backends.builtin.tokens import CONTEXT, END, VOCABULARY, windows
from headgate.worker.backends.builtin.worksheets import FAMILIES, Worksheet, balanced

SHEETS = 200
"""Of the test split, which no model was trained on; the seed is the run's."""
DRAWS = 1500
"""Answers of a chi-square test; their seeds count up from the run's. It takes 4 seconds."""
LONG = "Go from 352 to 547 in steps of 5"
UNSURE = "in words"
"""No worksheet: either model spreads over many bytes, and the total variation between their first is .4."""

Pairs = Counter[tuple[int, int]]
Distribution = NDArray[np.float64]


@pytest.fixture(scope="module")
def target() -> Engine:
    return Engine.load("large")


@pytest.fixture(scope="module")
def draft() -> Engine:
    return Engine.load("small")


@pytest.fixture(scope="module")
def pair(target: Engine, draft: Engine) -> Pair:
    return Pair(target, draft)


@pytest.fixture(scope="module")
def sheets(seed: int) -> list[Worksheet]:
    return balanced(seed, SHEETS)


def same(found: list[Step], expected: list[Step]) -> None:
    """The same bytes, and log probabilities up to rounding."""
    assert [step.token_id for step in found] == [step.token_id for step in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        told, wanted = ([logprob for _, logprob in step.alternatives] for step in (one, other))
        assert told == pytest.approx(wanted, abs=1e-3)


def test_greedy_answers_are_the_target_s_own_in_fewer_passes(
    target: Engine, pair: Pair, sheets: list[Worksheet]
) -> None:
    assert {sheet.family for sheet in sheets} == set(FAMILIES)
    tally, written = Tally(), 0
    for sheet in sheets:
        expected = list(target.decode(sheet.question))
        same(list(pair.decode(sheet.question, tally=tally)), expected)
        written += len(expected)
    assert tally.accepted + tally.target_forwards >= written
    assert tally.accepted <= tally.drafted
    assert tally.target_forwards / written <= 0.8, tally


@pytest.mark.parametrize("reach", [Reach(0), Reach(1, 0.0), Reach(20, 0.0), Reach(5, 0.9)], ids=str)
def test_however_far_the_draft_reaches(target: Engine, draft: Engine, reach: Reach) -> None:
    tally = Tally()
    same(list(Pair(target, draft, reach).decode(LONG, tally=tally)), list(target.decode(LONG)))
    assert (tally.drafted == 0) == (reach.most == 0)


def test_a_draft_model_that_is_always_wrong_changes_nothing(
    target: Engine, draft: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = speculative.Draft(ord("~"))
    monkeypatch.setattr(speculative._Greedy, "propose", lambda *_: (wrong, 1.0))
    tally, expected = Tally(), list(target.decode(LONG))
    same(list(Pair(target, draft).decode(LONG, tally=tally)), expected)
    assert (tally.accepted, tally.target_forwards) == (0, len(expected))


@pytest.mark.parametrize("most", range(1, 12))
def test_max_tokens_holds_in_the_middle_of_a_draft(target: Engine, pair: Pair, most: int) -> None:
    same(list(pair.decode(LONG, Sampling(max_tokens=most))), list(target.decode(LONG))[:most])


@pytest.mark.parametrize("size", range(CONTEXT - 12, CONTEXT - 1))
def test_the_context_is_a_wall(target: Engine, pair: Pair, size: int) -> None:
    question = "seven " * 60
    same(list(pair.decode(question[:size])), list(target.decode(question[:size])))


def test_a_seed_repeats_a_drawn_answer(pair: Pair) -> None:
    hot = [Sampling(temperature=2.0, seed=seed) for seed in range(5)]
    first, again = ([list(pair.decode(UNSURE, sampling)) for sampling in hot] for _ in range(2))
    assert first == again
    assert any(answer != first[0] for answer in first)


class Chances:
    """The exact distribution of a model's first two bytes; the second is -1 after an end byte."""

    def __init__(self, engine: Engine, question: str, sampling: Sampling) -> None:
        prompt = engine.prompt(question)
        with engine.lane() as lane:
            first = self._after(lane, prompt, sampling)
            self.of = {(END, -1): first[END]}
            for token in set(range(VOCABULARY)) - {END}:
                if first[token] > 0:
                    second = first[token] * self._after(lane, [*prompt, token], sampling)
                    self.of |= {(token, then): second[then] for then in range(VOCABULARY)}

    @staticmethod
    def _after(lane: Lanes, ids: list[int], sampling: Sampling) -> Distribution:
        return distribution(lane.read(windows(np.array(ids, np.int32)), 0).logprobs[0, -1], sampling)

    def p_value(self, drawn: Pairs) -> float:
        """Of a chi-square test; pairs that are expected less than 5 times are counted together."""
        n = drawn.total()
        often = [pair for pair, chance in self.of.items() if n * chance >= 5]
        expected = np.array([n * self.of[pair] for pair in often])
        observed = np.array([float(drawn[pair]) for pair in often])
        rest = n - expected.sum()
        if rest > 0.5:
            expected, observed = np.append(expected, rest), np.append(observed, n - observed.sum())
        elif observed.sum() < n:
            return 0.0  # It drew what cannot be drawn.
        return float(chisquare(observed, expected * (observed.sum() / expected.sum())).pvalue)


def drawn_pairs(pair: Pair, question: str, sampling: Sampling, seed: int) -> Pairs:
    found: Pairs = Counter()
    for number in range(DRAWS):
        one = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, seed + number, max_tokens=4)
        ids = [step.token_id for step in islice(pair.decode(question, one), 2)]
        found[ids[0], ids[1] if len(ids) > 1 else -1] += 1
    return found


WHOLE = Sampling(temperature=1.5)
CUT = Sampling(temperature=2.0, top_p=0.8, top_k=7)
REACHES = {"as served": Reach(), "always three": Reach(3, 0.0)}


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
@pytest.mark.parametrize("sampling", [WHOLE, CUT], ids=["whole", "cut"])
def test_drawn_bytes_follow_the_target_and_not_the_draft(
    target: Engine, draft: Engine, sampling: Sampling, reach: Reach, seed: int
) -> None:
    drawn = drawn_pairs(Pair(target, draft, reach), UNSURE, sampling, seed)
    assert Chances(target, UNSURE, sampling).p_value(drawn) > 0.001
    assert Chances(draft, UNSURE, sampling).p_value(drawn) < 1e-6


def test_drawing_again_from_the_whole_target_would_be_noticed(
    target: Engine, draft: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant that the test above is there for: a refused draft is replaced by a byte from p."""
    monkeypatch.setattr(speculative, "residual", lambda p, q: p)
    drawn = drawn_pairs(Pair(target, draft, REACHES["always three"]), UNSURE, WHOLE, seed)
    assert Chances(target, UNSURE, WHOLE).p_value(drawn) < 1e-6


def test_the_residual_is_where_the_target_has_more() -> None:
    p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.3, 0.4, 0.2])
    assert residual(p, q) == pytest.approx([0.4, 0, 0, 0])
    assert residual(p, p.copy()) is p


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=5)], ids=["greedy", "drawn"])
def test_leaving_in_the_middle_stops_the_work_and_disturbs_nobody(
    pair: Pair, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, passes, read = list(pair.decode(LONG, sampling)), Counter[str](), Lanes.read

    def counted(lane: Lanes, rows: NDArray[np.int32], start: int) -> object:
        passes["all"] += 1
        return read(lane, rows, start)

    monkeypatch.setattr(Lanes, "read", counted)
    for stop in range(1, 20):
        tally = Tally()
        steps = pair.decode(LONG, sampling, tally)
        assert list(islice(steps, stop)) == expected[:stop]
        before = passes["all"]
        steps.close()
        assert passes["all"] == before
        assert tally.accepted <= stop
        assert list(islice(pair.decode(LONG, sampling), 30)) == expected[:30]
