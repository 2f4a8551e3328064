"""The page shows every figure, the bad ones too, in the order of the promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import figures, page
from tests.faults.figures import Figure, Form
from tests.faults.mutants import MUTANTS

GOOD = Figure(
    "17: no request fails", "0 failed", "0 of 9 failed", 9, met=True, seed=1, commit=figures.commit()
)
BAD = Figure(
    "6: a cancel reaches the upstream", "all", "8 of 9", 9, met=False, seed=1, commit=figures.commit()
)


def test_the_page_shows_what_was_not_met() -> None:
    text = page.page([BAD, GOOD], "A machine.")
    assert (
        f"| 6: a cancel reaches the upstream | all | 8 of 9 | 9 | **no** | 1 | {figures.commit()} |" in text
    )
    assert text.index("| 6: ") < text.index("| 17: ")
    assert all(mutant.fault in text for mutant in MUTANTS)


def test_a_long_form_notes_its_figures_before_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "NOTED", tmp_path)
    form = Form(long=True, seed=1, test="test_x")
    with pytest.raises(AssertionError, match="8 of 9"):
        form.note(BAD.promise, target=BAD.target, measured=BAD.measured, n=BAD.n, met=BAD.met)
    assert page.noted(tmp_path) == [BAD]
    form.note(GOOD.promise, target=GOOD.target, measured=GOOD.measured, n=GOOD.n, met=GOOD.met)
    assert page.noted(tmp_path) == [BAD, GOOD], "runs add up, the bad ones too"


def test_rows_on_the_page_stay_and_are_not_doubled() -> None:
    text = page.page(page.ordered([GOOD, BAD]), "A machine.")
    assert page.told(text) == [BAD, GOOD]
    assert page.page(page.ordered({*page.told(text), GOOD}), "A machine.") == text


def test_the_committed_page_can_be_read_again() -> None:
    text = (Path(__file__).parents[3] / page.PAGE).read_text(encoding="utf-8")
    assert len(page.told(text)) >= 30


def test_a_short_form_judges_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "NOTED", tmp_path)
    form = Form(long=False, seed=1, test="test_x")
    form.note(BAD.promise, target=BAD.target, measured=BAD.measured, n=BAD.n, met=BAD.met)
    assert page.noted(tmp_path) == []
    assert (form.count(3, 9), Form(long=True, seed=1, test="x").count(3, 9)) == (3, 9)
