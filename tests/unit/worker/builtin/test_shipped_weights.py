"""The shipped weights are as good as they must be, on worksheets that they were not measured on before."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from headgate.worker.backends.builtin.engine import MODELS, Engine
from headgate.worker.backends.builtin.train.__main__ import PACKAGED
from headgate.worker.backends.builtin.train.evaluate import Share, score
from headgate.worker.backends.builtin.worksheets import FAMILIES, batch

N = 3000
"""About 15 seconds on one core. The intervals below are 95 % Wilson intervals of so many worksheets."""
MANIFEST = json.loads((PACKAGED / "manifest.json").read_text())

Marks = dict[str, dict[str, Share]]


@pytest.fixture(scope="module")
def marks(seed: int) -> Marks:
    """By model: right answers of all worksheets, of the general ones, of small's specialities."""
    sheets = batch(seed, N)
    special = [FAMILIES[sheet.family].speciality for sheet in sheets]
    found: Marks = {}
    for name in MODELS:
        scores = score(sheets, Engine.load(name).answer_batch([sheet.question for sheet in sheets]))
        parts = {"all": {True, False}, "general": {False}, "specialities": {True}}
        found[name] = {
            part: _share([mark for mark, one in zip(scores, special, strict=True) if one in wanted])
            for part, wanted in parts.items()
        }
    return found


def _share(scores: list[float]) -> Share:
    return Share(int(sum(scores)), len(scores))


def test_large_is_right_in_88_of_100(marks: Marks) -> None:
    assert marks["large"]["all"].interval[1] >= 0.88, marks


def test_small_is_right_in_55_to_80_of_100(marks: Marks) -> None:
    low, high = marks["small"]["all"].interval
    assert low >= 0.55, marks
    assert high <= 0.80, marks


def test_small_is_ahead_by_15_points_on_its_specialities(marks: Marks) -> None:
    small, large = (marks[name]["specialities"] for name in ("small", "large"))
    assert small.n > N / 10
    assert small.mean - large.mean >= 0.15, marks


@pytest.mark.parametrize("part", ["all", "general", "specialities"])
@pytest.mark.parametrize("name", MODELS)
def test_the_card_s_figures_hold(marks: Marks, name: str, part: str) -> None:
    """Two samples of the same model: further apart than four standard errors, and it is another one."""
    card, mine = MANIFEST[name]["evaluation"][part], marks[name][part]
    error = (card["right"] * (1 - card["right"]) * (1 / mine.n + 1 / card["n"])) ** 0.5
    assert abs(mine.mean - card["right"]) <= 4 * error, (mine, card)


@pytest.mark.parametrize("name", MODELS)
def test_the_manifest_is_that_of_the_shipped_files(name: str) -> None:
    content = (PACKAGED / MANIFEST[name]["file"]).read_bytes()
    assert (sha256(content).hexdigest(), len(content)) == (MANIFEST[name]["sha256"], MANIFEST[name]["bytes"])
