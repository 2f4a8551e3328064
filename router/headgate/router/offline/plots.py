"""The pictures of a report as PNG bytes: cost and quality, risk and coverage, reliability.

Each is made for 800 px of width, on a ground of its own, so that it reads alike on a light and a dark page.
Colours are those of Okabe and Ito, which the colour-blind tell apart; dashes tell lines apart without any.
matplotlib is loaded when a picture is drawn, and no picture touches its global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router.offline import curve, frontier
from headgate.router.offline.crossval import Told
from headgate.router.offline.findings import LEVELS, Bin, Findings, gains
from headgate.router.offline.frontier import Band

WIDTH = 800
"""Pixels that a picture is made to be shown at; it has twice as many."""

_BLUE, _BLACK, _GREY = "#0072B2", "#1a1a1a", "#707070"
_RIVALS = (
    ("#D55E00", (0, (5, 1.5))),
    ("#009E73", (0, (3, 1, 1, 1))),
    ("#CC79A7", "-"),
    ("#E69F00", (0, (1, 1))),
)
_CHANCE = ("random", _GREY, (0, (6, 4)))
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _BLACK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": _BLACK,
    "ytick.color": _BLACK,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "figure.facecolor": "#ffffff",
    "savefig.facecolor": "#ffffff",
}
_DPI = 200
_LONGEST_NAME = 36
_UNDEFINED = "–"
_SHADE = "its 95 % interval"
_RIGHT = 0.75
"""Share from which on a label goes left of its dot."""
_RISKS = (0.02, 0.05, 0.10)

_Array = NDArray[np.float64]


def cost_quality(told: Told, found: Findings) -> bytes:
    """Mean quality over the share of large calls: Headgate with its interval, its rivals, the oracle."""

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        _levels(panel, told.outcomes.score)
        _rivals(panel, told)
        _oracle(panel, frontier.quality, told.outcomes.score)
        _headgate(panel, found.quality, _named("Headgate", told.expected.p_correct, told))
        _ends(panel, told.outcomes.score)
        _shares(panel, "share of queries that go to the large model", "mean quality")
        _beside(figure, panel, ranked=True)

    return _png(draw, height=4.7)


def risk_coverage(told: Told, found: Findings) -> bytes:
    """Regret over the share that the small model answers: Headgate, its best rival, chance."""

    def draw(figure: Any) -> None:
        panel, score = figure.subplots(), told.outcomes.score
        _targets(panel)
        _headgate(panel, found.regret, "Headgate", flip=True)
        for name, colour, dash in _compared(told):
            _line(panel, frontier.regret(gains(told.rivals[name]), score), colour, dash, name, flip=True)
        _oracle(panel, frontier.regret, score, flip=True)
        _default(panel, found)
        _shares(panel, "share of queries that the small model answers", "requests that lose quality")
        panel.set_ylim(0, max(0.11, 1.04 * float(found.regret.high.max())))
        panel.yaxis.set_major_formatter(_percent())
        _beside(figure, panel)

    return _png(draw, height=4.3)


def reliability(models: Sequence[str], found: Findings) -> bytes:
    """Quality found over p_correct told, for both models; a bar is the 95 % interval of its bin."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for panel, name, bins in zip(panels, models, found.reliability, strict=True):
            _bins(panel, bins)
            panel.set_title(_short(name), parse_math=False)
        panels[0].set_ylabel("mean quality found")

    return _png(draw, height=4.3)


def _png(draw: Callable[[Any], None], height: float) -> bytes:
    """What `draw` puts on a figure of WIDTH pixels and `height` inches."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 100, height), dpi=_DPI, layout="constrained")
        draw(figure)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return file.getvalue()


def _headgate(panel: Any, band: Band, name: str, flip: bool = False) -> None:
    """The line and its shade; `flip` has the share of the small model on the axis."""
    share = 1 - band.share if flip else band.share
    panel.plot(share, band.value, color=_BLUE, linewidth=2.8, label=name, zorder=5)
    panel.fill_between(share, band.low, band.high, color=_BLUE, alpha=0.18, linewidth=0, label=_SHADE)


def _line(panel: Any, path: _Array, colour: str, dash: Any, name: str, flip: bool = False) -> None:
    share = np.linspace(0, 1, len(path))
    panel.plot(1 - share if flip else share, path, color=colour, linestyle=dash, linewidth=1.7, label=name)


def _rivals(panel: Any, told: Told) -> None:
    for name, colour, dash in _styled(told):
        p = told.rivals[name]
        path = frontier.quality(gains(p), told.outcomes.score)
        _line(panel, path, colour, dash, _named(name, p, told))


def _styled(told: Told) -> list[tuple[str, str, Any]]:
    """Name, colour and dash of every rival; each keeps its own in all pictures."""
    others = [name for name in told.rivals if name != _CHANCE[0]]
    styled = [(name, *_RIVALS[place % len(_RIVALS)]) for place, name in enumerate(others)]
    return [*styled, *([_CHANCE] if _CHANCE[0] in told.rivals else [])]


def _compared(told: Told) -> list[tuple[str, str, Any]]:
    """The rival of highest APGR, and chance."""
    styled = _styled(told)
    others = [one for one in styled if one[0] != _CHANCE[0]]
    best = sorted(others, key=lambda one: -_apgr(told.rivals[one[0]], told))[:1]
    return [*best, *(one for one in styled if one[0] == _CHANCE[0])]


def _apgr(p: _Array, told: Told) -> float:
    return curve.apgr(gains(p), told.outcomes.score)


def _named(name: str, p: _Array, told: Told) -> str:
    return f"{name}  {_shown(_apgr(p, told))}"


def _shown(apgr: float) -> str:
    return f"{apgr:.3f}" if np.isfinite(apgr) else _UNDEFINED


def _oracle(panel: Any, path: frontier.Path, score: _Array, flip: bool = False) -> None:
    """Whoever sees the outcomes."""
    gain = score[:, 1] - score[:, 0]
    name = "oracle" if flip else f"oracle  {_shown(curve.apgr(gain, score))}"
    _line(panel, path(gain, score), _BLACK, (0, (1, 1.6)), name, flip)


def _ends(panel: Any, score: _Array) -> None:
    small, large = score.mean(axis=0).tolist()
    panel.plot([0, 1], [small, large], "o", color=_BLACK, markersize=6, zorder=6, clip_on=False)
    _say(panel, "always small", (0, small), (10, -5), va="top" if small <= large else "bottom")
    _say(panel, "always\nlarge", (1, large), (10, 0), va="center")


def _levels(panel: Any, score: _Array) -> None:
    """What 95 % and 98 % of the large model's quality are."""
    for level, side in zip(LEVELS, ("top", "bottom"), strict=True):
        height = level * float(score[:, 1].mean())
        panel.axhline(height, color=_GREY, linewidth=0.9)
        away = (5, 1 if side == "bottom" else -2)
        _say(panel, f"{100 * level:.0f} % of large", (0, height), away, va=side, color=_GREY)


def _targets(panel: Any) -> None:
    for risk in _RISKS:
        panel.axhline(risk, color=_GREY, linewidth=0.9)
        _say(panel, f"target {100 * risk:.0f} %", (1, risk), (8, 0), va="center", color=_GREY)


def _default(panel: Any, found: Findings) -> None:
    """Where the report's default point lies; the curve rises, so there is room below on its right."""
    kept = 1 - found.point.large_share
    panel.plot([kept], [found.point.regret], "o", color=_BLUE, markersize=8, zorder=6, clip_on=False)
    side = ("left", (10, -6)) if kept < _RIGHT else ("right", (-8, 16))
    style = {"ha": side[0], "va": "top", "color": _BLUE, "weight": "bold"}
    _say(panel, f"{100 * kept:.0f} % by small", (kept, found.point.regret), side[1], **style)


def _say(panel: Any, text: str, at: tuple[float, float], away: tuple[int, int], **style: Any) -> None:
    style = {"fontsize": 9.5, "color": _BLACK, **style}
    panel.annotate(text, at, away, textcoords="offset points", parse_math=False, zorder=7, **style)


def _bins(panel: Any, bins: Sequence[Bin]) -> None:
    at, found = np.array([one.p_correct for one in bins]), [one.quality for one in bins]
    value, low, high = (np.array([getattr(one, name) for one in found]) for name in ("value", "low", "high"))
    panel.plot([0, 1], [0, 1], color=_GREY, linestyle=(0, (6, 4)), linewidth=1.2, label="as told")
    span = np.maximum((value - low, high - value), 0)
    panel.errorbar(
        at,
        value,
        span,
        fmt="o-",
        color=_BLUE,
        linewidth=1.2,
        elinewidth=2,
        capsize=3,
        label="found, 95 % interval",
    )
    panel.set(xlabel="p_correct told", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panel.legend(loc="upper left")


def _shares(panel: Any, along: str, up: str) -> None:
    panel.set(xlabel=along, ylabel=up, xlim=(0, 1))
    panel.xaxis.set_major_formatter(_percent())


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1, decimals=0, symbol=" %")


def _beside(figure: Any, panel: Any, ranked: bool = False) -> None:
    """The legend right of the panel; `ranked` by the APGR that ends each name, the shade last."""
    handles, names = panel.get_legend_handles_labels()
    pairs = list(zip(handles, names, strict=True))
    if ranked:
        pairs.sort(key=lambda pair: _order(pair[1]))
    title = "APGR" if ranked else None
    legend = figure.legend(*zip(*pairs, strict=True), loc="outside right upper", title=title)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _order(name: str) -> tuple[bool, float]:
    if name == _SHADE:
        return True, 0.0
    apgr = name.rsplit(maxsplit=1)[-1]
    return False, 0.0 if apgr == _UNDEFINED else -float(apgr)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
