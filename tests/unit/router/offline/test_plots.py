from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headgate.router.bundle import Estimates
from headgate.router.offline import curve, plots
from headgate.router.offline.crossval import Told
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.findings import Findings, find, gains

MakeOutcomes = Callable[[int, int], Outcomes]
BLUE = np.array([0x00, 0x72, 0xB2]) / 255


@pytest.fixture(scope="module")
def told(make_outcomes: MakeOutcomes, seed: int) -> Told:
    """The planted pair; the number of digits tells what is hard, with some noise."""
    table = make_outcomes(seed, 400).with_models(("tiny", "big"))
    rng = np.random.default_rng(seed)
    digits = np.array([len(text.split()[1]) for text in table.texts])
    p = np.clip(np.stack((1.05 - 0.2 * digits, np.full(400, 0.9)), axis=1), 0.05, 0.95)
    noisy = np.clip(p + rng.normal(0, 0.3, p.shape), 0, 1)
    expected = Estimates(p, 0.1 * p, p, p, p[:, 0], p)
    return Told(table, expected, {"random": rng.random((400, 2)), "TF-IDF + LR": noisy}, 320)


@pytest.fixture(scope="module")
def found(told: Told, seed: int) -> Findings:
    return find(told, seed)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, as matplotlib has them."""
    from matplotlib.figure import Figure

    drawn: list[Any] = []

    def png(draw: Callable[[Any], None], height: float) -> bytes:
        drawn.append(Figure())
        draw(drawn[-1])
        return b""

    monkeypatch.setattr(plots, "_png", png)
    return drawn


def all_pictures(told: Told, found: Findings) -> list[bytes]:
    return [
        plots.cost_quality(told, found),
        plots.risk_coverage(told, found),
        plots.reliability(told.outcomes.models, found),
    ]


def test_pictures_are_real_and_wide_and_have_headgate_s_blue_on_white(told: Told, found: Findings) -> None:
    from matplotlib.image import imread

    for picture in all_pictures(told, found):
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        pixels = imread(io.BytesIO(picture))[:, :, :3]
        assert pixels.shape[1] == 2 * plots.WIDTH
        assert 0.01 < (pixels < 0.98).any(axis=2).mean() < 0.5
        assert (np.abs(pixels - BLUE).max(axis=2) < 0.01).sum() > 1000
        assert (pixels[:4] == 1).all(), "the ground is its own, so a dark page does not show through"


def test_equal_findings_give_equal_pictures(told: Told, found: Findings) -> None:
    assert plots.cost_quality(told, found) == plots.cost_quality(told, found)


def test_the_lines_run_from_small_to_large_and_all_are_named(
    told: Told, found: Findings, figures: list[Any]
) -> None:
    plots.cost_quality(told, found)
    panel = figures[0].axes[0]
    small, large = told.outcomes.score.mean(axis=0)
    named = {line.get_label().split("  ")[0]: line for line in panel.lines if line.get_label()[0] != "_"}
    assert set(named) == {"Headgate", "oracle", *told.rivals}
    for line in named.values():
        assert line.get_xdata()[[0, -1]].tolist() == [0, 1]
        assert line.get_ydata()[[0, -1]] == pytest.approx([small, large])
    assert {"always small", "always\nlarge", "95 % of large"} <= {text.get_text() for text in panel.texts}


def test_the_legend_tells_apgr_and_is_in_its_order(told: Told, found: Findings, figures: list[Any]) -> None:
    plots.cost_quality(told, found)
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    apgr = curve.apgr(gains(told.expected.p_correct), told.outcomes.score)
    assert f"Headgate  {apgr:.3f}" in names
    told_apgr = [float(name.split()[-1]) for name in names[:-1]]
    assert told_apgr == sorted(told_apgr, reverse=True)
    assert names[0].startswith("oracle")
    assert names[-1] == "its 95 % interval"


def test_lines_are_told_apart_without_colour(told: Told, found: Findings, figures: list[Any]) -> None:
    many = replace(told, rivals={str(i): told.rivals["random"] for i in range(4)} | dict(told.rivals))
    plots.cost_quality(many, found)
    lines = [line for line in figures[0].axes[0].lines if line.get_label()[0] != "_"]
    looks = {(str(line._unscaled_dash_pattern), line.get_color(), line.get_linewidth()) for line in lines}
    assert len(looks) == len(lines) - 1, "a fifth rival has the look of the first"


def test_regret_rises_with_what_small_answers(told: Told, found: Findings, figures: list[Any]) -> None:
    plots.risk_coverage(told, found)
    panel = figures[0].axes[0]
    ours = next(line for line in panel.lines if line.get_label() == "Headgate")
    order = np.argsort(ours.get_xdata())
    assert (np.diff(ours.get_ydata()[order]) >= 0).all()
    score = told.outcomes.score
    assert ours.get_ydata()[order][[0, -1]] == pytest.approx([0, (score[:, 0] < score[:, 1]).mean()])
    kept = 1 - found.point.large_share
    assert f"{100 * kept:.0f} % by small" in {text.get_text() for text in panel.texts}


def test_reliability_has_a_panel_for_each_model_in_their_order(
    told: Told, found: Findings, figures: list[Any]
) -> None:
    plots.reliability(told.outcomes.models, found)
    panels = figures[0].axes
    assert [panel.get_title(loc="left") or panel.get_title() for panel in panels] == ["tiny", "big"]
    for panel, bins in zip(panels, found.reliability, strict=True):
        dots = panel.containers[0].lines[0]
        assert dots.get_xdata() == pytest.approx([one.p_correct for one in bins])
        assert dots.get_ydata() == pytest.approx([one.quality.value for one in bins])


@pytest.mark.parametrize("name", ["$x^$", "a_{", "n" * 300, "\\frac{", "<b>"])
def test_a_model_may_have_any_name(name: str, found: Findings) -> None:
    assert plots.reliability((name, "big"), found)


def test_a_pair_without_a_gap_is_drawn_and_claims_no_apgr(told: Told, seed: int, figures: list[Any]) -> None:
    turned = replace(told, outcomes=replace(told.outcomes, score=told.outcomes.score[:, ::-1].copy()))
    all_pictures(turned, find(turned, seed))
    assert "Headgate  –" in [text.get_text() for text in figures[0].legends[0].get_texts()]


def test_drawing_leaves_matplotlib_as_it_was(told: Told, found: Findings) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.cost_quality(told, found)
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = "import sys, headgate.router.offline.html_report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
