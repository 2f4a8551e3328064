"""A pair's evaluation as one page that stands alone: pictures inside, no script, nothing fetched.

Whatever comes from data (names, subjects, ids, texts) is escaped on its way into the page.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

from headgate.router.offline import plots
from headgate.router.offline.crossval import Told
from headgate.router.offline.curve import Interval
from headgate.router.offline.findings import Case, Findings, Kept, find

TEXT_SHOWN = 300
"""Characters of a query's text."""
_LONGEST_ID = 60
_CHANCE = 0.5
"""APGR of a choice by lot."""
_PERCENT = "\N{NO-BREAK SPACE}%"
_SPACES = "\n\t\N{NO-BREAK SPACE}"
_UNDEFINED = "not defined"

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #595959; --line: #d9d9d9; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a8a8a8; --line: #444444; --page: #16181c; }
}
body { background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 960px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4em 0 .4em; }
h3 { font-size: 1rem; margin: 1.6em 0 .3em; }
p.verdict { border-left: 4px solid #0072B2; padding-left: 14px; }
figure { margin: 12px 0; }
img { display: block; width: 100%; max-width: 800px; height: auto; border-radius: 4px; }
figcaption, .note, footer { color: var(--soft); font-size: .9rem; max-width: 800px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { border-bottom: 1px solid var(--line); padding: 5px 14px 5px 0; text-align: right; }
th, td { vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td { white-space: nowrap; }
td.text { white-space: pre-line; overflow-wrap: anywhere; min-width: 280px; max-width: 480px; }
tr.ours td { font-weight: 600; }
footer { border-top: 1px solid var(--line); margin-top: 48px; padding-top: 8px; overflow-wrap: anywhere; }
"""

_ABOUT_FIGURES = """
Brackets are 95 % intervals over queries; the shares were read off these queries, with hindsight. What this
does not say: no dollars, for the prices of the two models are not known here, and a share of calls is no
share of the bill; and nothing about queries unlike these, for every figure takes for granted that yours are
drawn as these were (that they are exchangeable).
"""
_ABOUT_CURVE = """
Queries go to the large model in the order of the gain that is expected of it, so every way to choose is a
line from always small to always large, and the higher line is the better one. The shade is the 95 %
bootstrap interval over queries: mostly how hard the drawn ones are, which moves all lines together, so
compare lines by the table below. APGR is the mean share of the gap between the two models that a line
recovers: 0.5 is chance. The oracle sees the answers before it chooses, luck included; nobody reaches it.
"""
_ABOUT_RIVALS = """
All were trained on the same queries and told the same ones. “Headgate ahead” is the difference in APGR with
its 95 % interval, the same queries drawn for both. CPT50 and CPT80 are the least shares of large calls that
recover 50 % and 80 % of the gap; the next columns, those that keep 95 % and 98 % of the large model's
quality. AUC and ECE are of “the small model is right”; ECE rewards knowing nothing, so read it beside AUC.
Subject mean reads a label of the data that traffic does not have.
"""
_ABOUT_RISK = """
A request loses quality where the small model answered and the large one's answer would have been better.
Going right, the small model answers more, those queries first where least is expected to be lost. The dot
is the default point of this report. Random is no choice at all; the oracle loses nothing until only losses
are left.
"""
_ABOUT_RELIABILITY = """
Queries in bins of equal count by p_correct; each dot is what was told and what was found, its bar the 95 %
Wilson interval of the bin. On the dashed line p_correct is what it says; above, it is too modest, below,
too bold.
"""
_ABOUT_SLICES = """
All slices stand at the one default point. Regret carries its 95 % Wilson interval; ECE is of “the small
model is right”, and mostly noise where a slice has few queries (about √(15/n)/2).
"""
_ABOUT_KEEPS = (
    "The small model answered and lost quality: those first where least gain was expected of large."
)
_ABOUT_WASTED = "Large was called and small was right: those first where most gain was expected."
_ABOUT_CERTIFICATES = """
Calibration sets of n labelled queries were drawn again and again from the queries above, and certified at
risk target α. A certificate is broken if the regret over all these queries is above α: that may happen in a
share δ of the draws, give or take the standard error. Small is the mean share of queries that the small
model may answer under the certificate; in hindsight, the most that any threshold on the same score could
reach.
"""


def files(told: Told, figures: Mapping[str, Any], seed: int) -> dict[str, bytes]:
    """The report of a pair, small and large in this order: each file's content by its name, the page last."""
    found = find(told, seed)
    pictures = {
        "cost-quality.png": plots.cost_quality(told, found),
        "risk-coverage.png": plots.risk_coverage(told, found),
        "reliability.png": plots.reliability(told.outcomes.models, found),
    }
    plain = {**figures, "seed": seed, "findings": found.plain()}
    text = json.dumps(_without_nan(plain), indent=2, allow_nan=False)
    return {
        **pictures,
        "figures.json": text.encode(),
        "index.html": page(told, figures, found, pictures).encode("utf-8", "replace"),
    }


def page(told: Told, figures: Mapping[str, Any], found: Findings, pictures: Mapping[str, bytes]) -> str:
    """The whole page; `pictures` are those of `files`, by name."""
    small, large = told.outcomes.models
    title = f"Routing between {small} and {large}"
    parts = (
        _tag("h1", title),
        _verdict(*verdict(told, figures, found)),
        _tag("h2", "Cost and quality"),
        _picture(pictures["cost-quality.png"], "Mean quality over the share of large calls", _ABOUT_CURVE),
        _tag("h2", "Headgate and its rivals"),
        *_rivals(figures, found),
        _tag("h2", "Risk and coverage"),
        _picture(pictures["risk-coverage.png"], "Regret over the share that small answers", _ABOUT_RISK),
        _tag("p", _point(found)),
        _tag("h2", "Is p_correct what it says?"),
        _picture(pictures["reliability.png"], "Quality found over p_correct told", _ABOUT_RELIABILITY),
        _tag("h2", f"By {found.by}"),
        *_slices(figures, found),
        _tag("h2", "Decisions worth reading"),
        *_decisions(found),
        *_certificates(figures.get("certificates", ())),
        _tag("footer", _footer(told, figures)),
    )
    return _document(title, "\n".join(parts))


def _verdict(lead: str, rest: str) -> str:
    return f'<p class="verdict">{_tag("strong", lead)} {_escaped(rest)}</p>'


def verdict(told: Told, figures: Mapping[str, Any], found: Findings) -> tuple[str, str]:
    """What was found, in plain words, and what stands behind it and is not said by it."""
    small, large = told.outcomes.models
    quality = figures["quality"]
    means = (
        f"On these {figures['n']:,} queries, of which no part of the router had seen the answers, the mean "
        f"quality of {large}, the large model, is {_percent(quality['large'])}, and that of {small}, the "
        f"small one, {_percent(quality['small'])}."
    )
    rest = (means, *_told_of_chance(figures), *_told_of_rivals(figures), _ABOUT_FIGURES.strip())
    return _lead(large, figures, found), " ".join(rest)


def _lead(large: str, figures: Mapping[str, Any], found: Findings) -> str:
    if figures["quality"]["small"] >= figures["quality"]["large"]:
        return "The small model is as good or better: large calls buy no quality on these queries."
    takes = [f"{_span(one.share)} of the queries to keep {_whole(one.level)}" for one in found.kept]
    return (
        f"Headgate sends {large} {' and '.join(takes)} of its quality (n = {figures['n']:,}). By lot that "
        f"takes {' and '.join(_percent(one.by_chance) for one in found.kept)}: Headgate spares "
        f"{' and '.join(_points(one.spared) for one in found.kept)} points of large calls."
    )


def _points(spared: Interval) -> str:
    return _span(Interval(100 * spared.value, 100 * spared.low, 100 * spared.high), _tenths)


def _told_of_chance(figures: Mapping[str, Any]) -> Iterable[str]:
    """Whether routing does anything at all here, over all shares of large calls."""
    low, high = figures["apgr_ci95"]
    if not isfinite(figures["apgr"]):
        return ()
    apart = "better" if low > _CHANCE else "worse" if high < _CHANCE else "not told apart from it"
    shown = _span(Interval(figures["apgr"], low, high), _number)
    return (f"Beside a choice by lot Headgate's is {apart}, over all shares: APGR {shown}, by lot 0.5.",)


def _told_of_rivals(figures: Mapping[str, Any]) -> Iterable[str]:
    """Whether the strongest rival is told apart from Headgate."""
    rows = figures["baselines"].items()
    others = {name: row["apgr"] for name, row in rows if name != "random" and isfinite(row["apgr"])}
    if not others:
        return ()
    best = max(others, key=lambda name: others[name])
    value, low, high = figures["apgr_above"][best]
    apart = "ahead of it" if low > 0 else "behind it" if high < 0 else "not told apart from it"
    ahead = _span(Interval(value, low, high), _signed)
    return (f"The strongest rival is {best}: Headgate is {apart} here, by {ahead} in APGR.",)


def _rivals(figures: Mapping[str, Any], found: Findings) -> tuple[str, ...]:
    quality, oracle, point = figures["quality"], figures["oracle"], found.point
    fixed = [
        ("always small", _percent(0.0), _percent(quality["small"])),
        ("always large", _percent(1.0), _percent(quality["large"])),
        (f"Headgate at {_whole(point.target)} regret", _percent(point.large_share), _percent(point.quality)),
        ("oracle", _percent(oracle["large_share"]), _percent(oracle["quality"])),
    ]
    levels = tuple(f"large calls for {_whole(one.level)}" for one in found.kept)
    head = ("choice by", "APGR", "Headgate ahead", "CPT50", "CPT80", *levels, "AUC", "ECE")
    return (
        _table(("choice", "large calls", "mean quality"), fixed),
        _table(head, _rival_rows(figures, found.kept), ours=0),
        _tag("p", _ABOUT_RIVALS, "note"),
    )


def _rival_rows(figures: Mapping[str, Any], kept: Sequence[Kept]) -> list[tuple[str, ...]]:
    low, high = figures["apgr_ci95"]
    shown = _span(Interval(figures["apgr"], low, high), _number)
    ours = _rival_row("Headgate", shown, "", figures, [one.share.value for one in kept])
    ranked = sorted(figures["baselines"].items(), key=lambda item: -_rank(item[1]["apgr"]))
    rows = [
        _rival_row(name, _number(row["apgr"]), _span(Interval(*figures["apgr_above"][name]), _signed), row,
                   [one.rivals[name] for one in kept])
        for name, row in ranked
    ]  # fmt: skip
    oracle = figures["oracle"]
    best = ("oracle", *(_number(oracle[key]) for key in ("apgr",)), "", _percent(oracle["cpt50"]),
            _percent(oracle["cpt80"]), *("" for _ in kept), "", "")  # fmt: skip
    return [ours, *rows, best]


def _rival_row(
    name: str, apgr: str, ahead: str, row: Mapping[str, float], shares: Sequence[float]
) -> tuple[str, ...]:
    calls = (row["cpt50"], row["cpt80"], *shares)
    return (name, apgr, ahead, *map(_percent, calls), _number(row["auc"]), _number(row["ece"]))


def _rank(value: float) -> float:
    return value if isfinite(value) else float("-inf")


def _point(found: Findings) -> str:
    point = found.point
    return (
        f"Default point: the small model answers as much as it may while at most {_whole(point.target)} of "
        f"requests lose quality. There {_percent(point.large_share)} of the queries go to the large model, "
        f"mean quality is {_percent(point.quality)} and regret {_percent(point.regret)}. It was found on "
        "these queries; a certificate, which holds for new ones, keeps more room."
    )


def _slices(figures: Mapping[str, Any], found: Findings) -> tuple[str, ...]:
    head = (found.by, "n", "small", "large", "large calls", "regret", "ECE")
    rows = [
        (one.name, f"{one.n:,}", _percent(one.small), _percent(one.large), _percent(one.large_share),
         _span(one.regret), _number(one.ece))
        for one in found.slices
    ]  # fmt: skip
    quality, point = figures["quality"], found.point
    whole = ("all", f"{figures['n']:,}", _percent(quality["small"]), _percent(quality["large"]),
             _percent(point.large_share), _percent(point.regret), _number(figures["ece"]))  # fmt: skip
    return _table(head, [*rows, whole], ours=len(rows)), _tag("p", _ABOUT_SLICES, "note")


def _decisions(found: Findings) -> Iterable[str]:
    yield _tag("h3", "Most regretted keeps")
    yield _tag("p", _ABOUT_KEEPS, "note")
    yield _cases(found.regretted)
    yield _tag("h3", "Most wasted escalations")
    yield _tag("p", _ABOUT_WASTED, "note")
    yield _cases(found.wasted)


def _cases(cases: Sequence[Case]) -> str:
    if not cases:
        return _tag("p", "There are none at the default point.")
    head = (
        "query",
        "text",
        "gain expected",
        "p_correct small",
        "p_correct large",
        "quality small",
        "quality large",
    )
    rows = [
        (_cut(case.id, _LONGEST_ID), _cut(case.text, TEXT_SHOWN), _signed(case.gain),
         *(f"{p:.2f} ± {spread:.2f}" for p, spread in zip(case.p_correct, case.spread, strict=True)),
         *(f"{score:g}" for score in case.quality))
        for case in cases
    ]  # fmt: skip
    return _table(head, rows, text=1)


def _certificates(cells: Sequence[Mapping[str, float]]) -> Iterable[str]:
    if not cells:
        return ()
    head = ("labels n", "α", "δ", "broken", "standard error", "small", "in hindsight")
    rows = [
        (f"{cell['n']:,}", f"{cell['alpha']:g}", f"{cell['delta']:g}",
         *(_percent(cell[key]) for key in ("violation_share", "se", "cheap_share", "best_share")))
        for cell in cells
    ]  # fmt: skip
    return _tag("h2", "Certificates"), _table(head, rows), _tag("p", _ABOUT_CERTIFICATES, "note")


def _footer(told: Told, figures: Mapping[str, Any]) -> str:
    parts = [
        f"{figures['n']:,} queries, told by models that were trained without them on {figures['labels']:,} "
        "labelled queries or more",
        f"outcomes SHA-256 {told.outcomes.fingerprint[:16]}…",
    ]
    if "decision_us" in figures:
        taken = figures["decision_us"]
        parts.append(f"a decision took {taken['p50']:.0f} µs, p99 {taken['p99']:.0f} µs, where this was made")
    return "; ".join(parts) + "."


def _document(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_escaped(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _tag(name: str, text: str, kind: str = "") -> str:
    """An element around plain text, which is escaped."""
    mark = f' class="{kind}"' if kind else ""
    return f"<{name}{mark}>{_escaped(text.strip())}</{name}>"


def _escaped(text: str) -> str:
    """Without signs that HTML does not allow."""
    return escape("".join(sign if sign.isprintable() or sign in _SPACES else " " for sign in text))


def _picture(png: bytes, what: str, about: str) -> str:
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    image = f'<img src="{source}" width="{plots.WIDTH}" alt="{_escaped(what)}">'
    return f"<figure>{image}{_tag('figcaption', about)}</figure>"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], ours: int | None = None, text: int | None = None
) -> str:
    """`ours` is the row that stands out, `text` the column that holds running text."""
    marks = ["text" if place == text else "" for place in range(len(head))]
    lines = [_row("th", head, marks)]
    lines += [_row("td", row, marks, "ours" if place == ours else "") for place, row in enumerate(rows)]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _row(cell: str, texts: Sequence[str], marks: Sequence[str], kind: str = "") -> str:
    cells = "".join(_tag(cell, text, mark) for text, mark in zip(texts, marks, strict=True))
    return f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}{_PERCENT}" if isfinite(value) else _UNDEFINED


def _whole(value: float) -> str:
    return f"{100 * value:.0f}{_PERCENT}"


def _number(value: float) -> str:
    return f"{value:.3f}" if isfinite(value) else _UNDEFINED


def _signed(value: float, digits: int = 3) -> str:
    """With a true minus, and no sign where nothing is left of the value."""
    if not isfinite(value):
        return _UNDEFINED
    shown = f"{value:+.{digits}f}"
    return shown.replace("-", "−") if float(shown) else shown[1:]


def _tenths(value: float) -> str:
    return _signed(value, 1)


def _span(found: Interval, shown: Any = _percent) -> str:
    if not isfinite(found.value):
        return _UNDEFINED
    low, high = (shown(one).removesuffix(_PERCENT) for one in (found.low, found.high))
    return f"{shown(found.value)} [{low}, {high}]"


def _without_nan(value: Any) -> Any:
    """As JSON knows it: what is not a number is null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
