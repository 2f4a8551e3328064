"""The training curve as a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headgate.worker.backends.builtin.worksheets import FAMILIES, LEVELS

_COLOURS = ("#1b7837", "#7fbf7b", "#af8dc3", "#762a83")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows a training run has written."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws right answers against minutes, one panel a model, as an SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "headgate", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    size = (4.5 * len(curves), 3.4)
    figure, panels = pyplot.subplots(
        1, len(curves), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (name, rows) in zip(panels[0], curves.items(), strict=True):
        _panel(panel, name, _thinned(rows))
    panels[0][0].set_ylabel("right while training")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=LEVELS + 1)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _panel(panel: Any, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    minutes = [row["seconds"] / 60 for row in rows]
    general = [family for family, kind in FAMILIES.items() if not kind.speciality]
    special = [family for family, kind in FAMILIES.items() if kind.speciality]
    for level, colour in zip(range(LEVELS), _COLOURS, strict=True):
        panel.plot(
            minutes, [_mean(row, general, [level]) for row in rows], color=colour, label=f"level {level}"
        )
    panel.plot(minutes, [_mean(row, special, range(LEVELS)) for row in rows], "k--", label="specialities")
    panel.set(title=name, xlabel="minutes", ylim=(0, 1))
    panel.grid(alpha=0.3)


def _mean(row: Mapping[str, Any], families: Sequence[str], levels: Sequence[int] | range) -> float:
    values = [float(row["accuracy"][f"{family}.{level}"]) for family in families for level in levels]
    return sum(values) / len(values)


def _thinned(rows: Sequence[Mapping[str, Any]], points: int = 120) -> Sequence[Mapping[str, Any]]:
    return rows[:: max(1, len(rows) // points)]
