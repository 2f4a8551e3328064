from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from headgate.router.bundle import Estimates
from headgate.router.offline import html_report, summary
from headgate.router.offline.crossval import Told
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.findings import Findings, find

MakeOutcomes = Callable[[int, int], Outcomes]
N = 400
HOSTILE = "<script>alert('1')</script><img src=x onerror=alert(2)>\"&amp; \x00\x1b[31m"
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "strong", "figure",
    "img", "figcaption", "div", "table", "tr", "th", "td", "footer",
}  # fmt: skip
CELL = {"n": 200, "alpha": 0.05, "delta": 0.1, "violation_share": 0.031, "se": 0.013, "cheap_share": 0.27,
        "best_share": 0.41}  # fmt: skip
BLANK = b"\x89PNG"
PICTURES = dict.fromkeys(("cost-quality.png", "risk-coverage.png", "reliability.png"), BLANK)


class Page(HTMLParser):
    """A page as its tags, their attributes, its tables, and its text; fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tables: list[list[list[str]]] = []
        self.text: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag in ("meta", "img"):
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag = self.open[-1] if self.open else ""
        self.text[tag] = self.text.get(tag, "") + data
        if tag in ("td", "th"):
            self.tables[-1][-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")

    def table(self, *columns: str) -> dict[str, dict[str, str]]:
        """The table whose head begins so: its rows by their first cell."""
        (found,) = (rows for rows in self.tables if tuple(rows[0][: len(columns)]) == columns)
        return {row[0]: dict(zip(found[0], row, strict=True)) for row in found[1:]}


@pytest.fixture(scope="module")
def told(make_outcomes: MakeOutcomes, seed: int) -> Told:
    """The planted pair with its verb as subject; the number of digits tells what is hard."""
    table = make_outcomes(seed, N).with_models(("tiny", "big"))
    rng = np.random.default_rng(seed)
    digits = np.array([len(text.split()[1]) for text in table.texts])
    p = np.clip(np.stack((1.05 - 0.2 * digits, np.full(N, 0.9)), axis=1), 0.05, 0.95)
    p += rng.normal(0, 1e-4, p.shape)
    rivals = {"random": rng.random((N, 2)), "TF-IDF + LR": np.clip(p + rng.normal(0, 0.3, p.shape), 0, 1)}
    subjects = tuple(text.split()[0] for text in table.texts)
    expected = Estimates(p, 0.1 * p, p, p, p[:, 0], p)
    return Told(replace(table, subjects=subjects), expected, rivals, 320)


@pytest.fixture(scope="module")
def figures(told: Told, seed: int) -> dict[str, Any]:
    return summary.pair(told, seed) | {"certificates": [CELL], "decision_us": {"p50": 90.2, "p99": 210.7}}


@pytest.fixture(scope="module")
def found(told: Told, seed: int) -> Findings:
    return find(told, seed)


@pytest.fixture(scope="module")
def page(told: Told, figures: dict[str, Any], found: Findings) -> Page:
    return Page(html_report.page(told, figures, found, PICTURES))


def percents(*values: float) -> list[str]:
    return [f"{100 * value:.1f} %" for value in values]


def number(text: str) -> float:
    return float(text.split()[0].replace("−", "-"))


def test_the_table_of_rivals_has_the_figures_in_their_columns(
    page: Page, figures: dict[str, Any], found: Findings
) -> None:
    rows = page.table("choice by")
    assert list(rows) == ["Headgate", "TF-IDF + LR", "random", "oracle"]
    for name, of in {"Headgate": figures, **figures["baselines"]}.items():
        row = rows[name]
        assert number(row["APGR"]) == pytest.approx(of["apgr"], abs=5e-4)
        assert [row["CPT50"], row["CPT80"]] == percents(of["cpt50"], of["cpt80"])
        assert [row["AUC"], row["ECE"]] == [f"{of['auc']:.3f}", f"{of['ece']:.3f}"]
        keeps = [one.share.value if name == "Headgate" else one.rivals[name] for one in found.kept]
        assert [row["large calls for 95 %"], row["large calls for 98 %"]] == percents(*keeps)
    low, high = figures["apgr_ci95"]
    assert rows["Headgate"]["APGR"] == f"{figures['apgr']:.3f} [{low:.3f}, {high:.3f}]"
    value, low, high = figures["apgr_above"]["random"]
    assert rows["random"]["Headgate ahead"] == f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def test_the_fixed_choices_and_the_oracle_have_theirs(
    page: Page, figures: dict[str, Any], found: Findings
) -> None:
    rows = {name: [row["large calls"], row["mean quality"]] for name, row in page.table("choice").items()
            if "mean quality" in row}  # fmt: skip
    assert rows == {
        "always small": percents(0, figures["quality"]["small"]),
        "always large": percents(1, figures["quality"]["large"]),
        "Headgate at 5 % regret": percents(found.point.large_share, found.point.quality),
        "oracle": percents(figures["oracle"]["large_share"], figures["oracle"]["quality"]),
    }


def test_slices_have_their_columns_and_all_is_the_whole(
    page: Page, figures: dict[str, Any], found: Findings
) -> None:
    rows = page.table("subject")
    assert list(rows) == ["add", "name", "take", "all"]
    for one in found.slices:
        row = rows[one.name]
        assert row["n"] == str(one.n)
        shown = [row[key] for key in ("small", "large", "large calls")]
        assert shown == percents(one.small, one.large, one.large_share)
        low, high = 100 * one.regret.low, 100 * one.regret.high
        assert row["regret"] == f"{100 * one.regret.value:.1f} % [{low:.1f}, {high:.1f}]"
        assert row["ECE"] == f"{one.ece:.3f}"
    whole = [rows["all"][key] for key in ("small", "large", "regret")]
    assert whole == percents(figures["quality"]["small"], figures["quality"]["large"], found.point.regret)


def test_certificates_have_theirs_and_no_section_without_them(
    page: Page, told: Told, figures: dict[str, Any], found: Findings
) -> None:
    assert page.table("labels n") == {
        "200": {
            "labels n": "200", "α": "0.05", "δ": "0.1", "broken": "3.1 %", "standard error": "1.3 %",
            "small": "27.0 %", "in hindsight": "41.0 %",
        }
    }  # fmt: skip
    none = {key: value for key, value in figures.items() if key != "certificates"}
    assert "Certificates" in page.text["h2"]
    assert "Certificates" not in Page(html_report.page(told, none, found, PICTURES)).text["h2"]


def test_decisions_show_what_was_told_of_small_and_of_large(page: Page, found: Findings) -> None:
    tables = [rows for rows in page.tables if rows[0][0] == "query"]
    assert len(tables) == 2
    for rows, cases in zip(tables, (found.regretted, found.wasted), strict=True):
        assert [row[0] for row in rows[1:]] == [case.id for case in cases]
        for cells, case in zip(rows[1:], cases, strict=True):
            row = dict(zip(rows[0], cells, strict=True))
            assert number(row["gain expected"]) == pytest.approx(case.gain, abs=6e-4)
            for m, model in enumerate(("small", "large")):
                assert row[f"p_correct {model}"] == f"{case.p_correct[m]:.2f} ± {case.spread[m]:.2f}"
                assert row[f"quality {model}"] == f"{case.quality[m]:g}"


def test_the_verdict_tells_shares_with_n_and_interval_and_what_it_does_not_say(
    told: Told, figures: dict[str, Any], found: Findings
) -> None:
    lead, rest = (
        text.replace("\N{NO-BREAK SPACE}", " ") for text in html_report.verdict(told, figures, found)
    )
    for one in found.kept:
        share = one.share
        span = f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"
        assert f"{span} of the queries to keep {100 * one.level:.0f} %" in lead
        assert f"{100 * one.by_chance:.1f} %" in lead
    assert "sends big " in lead
    assert f"n = {N}" in lead
    assert f"big, the large model, is {100 * figures['quality']['large']:.1f} %" in rest
    assert f"tiny, the small one, {100 * figures['quality']['small']:.1f} %" in rest
    assert "no dollars" in rest
    assert "exchangeable" in rest


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ([0.1, 0.05, 0.2], "ahead of it"),
        ([-0.1, -0.2, -0.05], "behind it"),
        ([0.1, -0.1, 0.2], "not told apart"),
    ],
)
def test_a_rival_is_beaten_only_where_the_interval_says_so(
    told: Told, figures: dict[str, Any], found: Findings, above: list[float], said: str
) -> None:
    changed = figures | {"apgr_above": {"TF-IDF + LR": above}, "apgr_ci95": [0.6, 0.7]}
    _, rest = html_report.verdict(told, changed, found)
    assert f"The strongest rival is TF-IDF + LR: Headgate is {said}" in rest
    assert "by lot Headgate's is better" in rest


@pytest.mark.parametrize(("interval", "said"), [([0.4, 0.6], "not told apart"), ([0.3, 0.4], "is worse")])
def test_a_choice_no_better_than_by_lot_is_called_so(
    told: Told, figures: dict[str, Any], found: Findings, interval: Sequence[float], said: str
) -> None:
    _, rest = html_report.verdict(told, figures | {"apgr_ci95": interval}, found)
    assert said in rest.split("over all shares")[0]


def test_whatever_comes_from_data_is_escaped(told: Told, figures: dict[str, Any], seed: int) -> None:
    table = replace(
        told.outcomes,
        ids=tuple(f"{HOSTILE}{i}" for i in range(N)),
        texts=tuple(f"{HOSTILE} {i}" for i in range(N)),
        subjects=tuple(f"{HOSTILE}{i % 2}" for i in range(N)),
        models=(HOSTILE, f"large {HOSTILE}"),
    )
    rivals = {HOSTILE: told.rivals["random"]}
    hostile = replace(told, outcomes=table, rivals=rivals)
    changed = figures | {
        "baselines": {HOSTILE: figures["baselines"]["random"]},
        "apgr_above": {HOSTILE: figures["apgr_above"]["random"]},
    }
    text = html_report.page(hostile, changed, find(hostile, seed), PICTURES)
    page = Page(text)
    assert set(page.tags) <= TAGS
    assert page.tags.count("img") == 3
    assert {name for name, _ in page.attributes} <= {
        "lang", "charset", "name", "content", "class", "src", "width", "alt",
    }  # fmt: skip
    assert not set("\x00\x1b") & set(text)
    assert "<script>alert('1')</script>" in page.text["h1"]
    assert "<script>alert('1')</script>" in page.tables[-2][1][1], "the text can still be read"


def test_the_page_is_whole_and_fetches_nothing(page: Page, told: Told, figures: Any, found: Findings) -> None:
    text = html_report.page(told, figures, found, PICTURES)
    assert text.startswith("<!DOCTYPE html>")
    assert set(page.tags) == TAGS
    assert all(value and value.startswith("data:image/png;base64,") for name, value in page.attributes
               if name == "src")  # fmt: skip
    assert not any(word in text for word in ("http:", "https:", "url(", "@import", "<link", "<script"))


def test_a_long_text_is_cut_and_a_short_one_is_not(
    told: Told, figures: dict[str, Any], found: Findings
) -> None:
    case = found.regretted[0]
    texts = ("x" * 301, "y" * 300)
    changed = replace(found, regretted=tuple(replace(case, text=text) for text in texts))
    cells = [row[1] for row in Page(html_report.page(told, figures, changed, PICTURES)).tables[-3][1:]]
    assert cells == ["x" * 299 + "…", "y" * 300]


def test_the_files_are_a_page_its_pictures_and_its_figures(
    told: Told, figures: dict[str, Any], seed: int
) -> None:
    files = html_report.files(told, figures, seed)
    assert list(files) == [*PICTURES, "figures.json", "index.html"]
    assert all(files[name].startswith(BLANK) for name in PICTURES)
    written = json.loads(files["figures.json"])
    assert {key: written[key] for key in figures} == figures
    assert written["findings"]["point"]["target"] == 0.05
    assert Page(files["index.html"].decode()).tags.count("img") == 3


def test_where_small_is_better_the_page_says_so_and_the_figures_are_still_json(told: Told, seed: int) -> None:
    turned = replace(told, outcomes=replace(told.outcomes, score=told.outcomes.score[:, ::-1].copy()))
    files = html_report.files(turned, summary.pair(turned, seed), seed)
    page = Page(files["index.html"].decode())
    assert "large calls buy no quality" in page.text["strong"]
    assert page.table("choice by")["Headgate"]["APGR"] == "not defined"
    assert json.loads(files["figures.json"])["apgr"] is None
