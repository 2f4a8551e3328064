"""The status counts, asks for what is missing, and says how sure it is of what it shows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from headgate.adapters.sample_reader import Found
from headgate.cli.outcomes import labels, needs, report
from headgate.cli.outcomes.labels import Labelled
from tests.unit.sample_rig import SAMPLE


def _rows(lost: int, kept: int, delivered: str = "small") -> Labelled:
    """Samples of which so many lost quality by routing."""
    one = replace(SAMPLE, delivered=delivered)
    return Labelled(
        tuple((one, {"small": float(number >= lost), "large": 1.0}) for number in range(lost + kept)),
        {labels.UNCOVERED: 7},
    )


def _status(labelled: Labelled) -> report.Status:
    every = tuple(sample for sample, _ in labelled.rows)
    return report.status(Found(every, (), 1000, 50), labelled, {"acme": 250_000_000}, 10**9, 0.05)


def test_routing_is_held_against_the_reference() -> None:
    shown = report.shown(_rows(lost=10, kept=90))
    assert shown is not None
    assert shown.quality.mean == pytest.approx(-0.1)
    assert shown.quality.low < -0.1 < shown.quality.high < 0
    assert shown.saved_nanousd.mean == pytest.approx(30 - 3)
    assert not shown.quality.sound


def test_what_the_reference_answered_itself_loses_and_saves_nothing() -> None:
    shown = report.shown(_rows(lost=50, kept=50, delivered="large"))
    assert shown is not None
    assert (shown.quality.mean, shown.saved_nanousd.mean) == (0, 0)


def test_a_draft_that_was_not_accepted_is_no_saving() -> None:
    rows = _rows(lost=0, kept=100, delivered="large").rows
    shown = report.shown(Labelled(tuple((replace(one, wasted_nanousd=3), given) for one, given in rows)))
    assert shown is not None
    assert shown.saved_nanousd.mean == -3


def test_a_sample_without_the_reference_s_answer_shows_nothing() -> None:
    assert (
        report.shown(Labelled(((replace(SAMPLE, reference="huge"), {"small": 1.0, "large": 1.0}),) * 9))
        is None
    )
    assert report.shown(Labelled(())) is None


def test_only_choices_of_the_newest_policy_are_shown() -> None:
    old = replace(SAMPLE, policy_version="old", at=1.0)
    rows = [(old, {"small": 0.0, "large": 1.0})] * 50
    shown = report.shown(Labelled((*rows, *_rows(lost=0, kept=10).rows)))
    assert shown is not None
    assert (shown.policy_version, shown.quality.n, shown.quality.mean) == ("p", 10, 0)


def test_samples_drawn_rarely_stand_for_more() -> None:
    rare, often = replace(SAMPLE, share=0.1), replace(SAMPLE, share=1.0)
    rows = ((rare, {"small": 0.0, "large": 1.0}), (often, {"small": 1.0, "large": 1.0}))
    shown = report.shown(Labelled(rows))
    assert shown is not None
    assert shown.quality.mean == pytest.approx(-10 / 11)


def test_runs_that_are_nobody_s_charge_are_told_and_not_hidden() -> None:
    found, labelled = Found((), (), lost_runs=3, lost_nanousd=2_000_000), Labelled(())
    told = report.status(found, labelled, {}, 10**9, 0.05)
    assert "lost runs  3 of jobs, run again: $0.002 that no tenant is charged" in report.in_words(told)
    assert (report.as_json(told)["lost_runs"], report.as_json(told)["lost_nanousd"]) == (3, 2_000_000)
    assert "lost runs" not in report.in_words(_status(Labelled(())))


def test_the_status_says_what_is_missing_in_words() -> None:
    said = report.in_words(_status(_rows(lost=10, kept=90)))
    needed = needs.to_collect(0.05)
    for line in (
        "samples    100, of them 100 labelled for every model",
        "           7 left out: settings that no certificate covers",
        "draws      50 of the 1,000 requests",
        "budget     acme: $0.25 of $1 today (UTC)",
        f"labels     {needed:,} labelled queries at least for risk target 5 %; {needed - 100:,} are missing",
        "policy     p, 100 labelled samples of its choices",
        "quality    -0.1000 [",
        "saved      90.0% [90.0%, 90.0%] of cost",
        "10 samples differ, not 30",
    ):
        assert line in said, said


def test_with_enough_labels_nothing_is_missing_and_nothing_is_promised() -> None:
    status = _status(_rows(lost=100, kept=900))
    assert status.missing == 0
    assert "are missing" not in report.in_words(status)
    assert "samples differ" not in report.in_words(status)


def test_the_status_as_json_is_json() -> None:
    told = json.loads(json.dumps(report.as_json(_status(_rows(lost=10, kept=90)))))
    assert (told["labelled"], told["missing"], told["spent_nanousd"]) == (
        100,
        needs.to_collect(0.05) - 100,
        {"acme": 250_000_000},
    )
    assert told["shown"]["quality"]["mean"] == pytest.approx(-0.1)
