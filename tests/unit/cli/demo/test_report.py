from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from rich.console import Console

from headgate.cli.demo.figures import NAMES as POLICIES
from headgate.cli.demo.figures import Figures, Promise, Row
from headgate.cli.demo.queued import Queued
from headgate.cli.demo.report import as_json, jobs_as_json, show, show_jobs
from headgate.client import Certificate

CERTIFICATE = Certificate(
    "c-1", "regret", 0.05, 0.95, 3598, "ab", datetime(2026, 11, 23, tzinfo=UTC), None, "large", 300
)


def row(name: str, quality: float, cost: int, shares: dict[str, float], measured: bool = True) -> Row:
    return Row(
        name, quality, (quality - 0.05, quality + 0.05), cost, shares, (12.0, 345.0) if measured else None
    )


@pytest.fixture
def figures() -> Figures:
    return Figures(
        queries=200,
        failures={},
        seed=7,
        cheapest="small",
        dearest="large",
        always={
            "small": row("always small", 0.6, 200_000, {"small": 1}),
            "large": row("always large", 0.9, 2_000_000, {"large": 1}),
        },
        random_mix=row("random mix", 0.7, 800_001, {"small": 0.7, "large": 0.3}, measured=False),
        mix_weight=1 / 3,
        policies={
            "routing": row("routing only", 0.88, 900_000, {"small": 0.6, "large": 0.4}),
            "cascade": row("cascade", 0.89, 850_000, {"small": 0.7, "large": 0.3}),
            "cascade_early_stop": row("Headgate", 0.89, 800_001, {"small": 0.7, "large": 0.3}),
        },
        wasted_tokens={"routing": 0, "cascade": 1300, "cascade_early_stop": 900},
        oracle=row("oracle", 0.95, 700_000, {"small": 0.6, "large": 0.4}, measured=False),
        models={"small": (0.7, 0.95), "large": (0.3, 0.75)},
        pgr=0.967,
        gain_over_mix=(0.19, (0.15, 0.23)),
        loss_to_dearest=(-0.01, (-0.03, 0.01)),
        latency_ms=(12.0, 345.0),
        overhead_ms=(1.2, 5.6),
        cache_hits=0,
        promise=Promise(CERTIFICATE, 190, 0.02, (0.01, 0.05)),
    )


def shown(figures: Figures, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(figures, console)
    return console.file.getvalue()


def test_the_object_has_the_promised_keys(figures):
    data = json.loads(json.dumps(as_json(figures)))
    assert {
        "queries",
        "failed",
        "models",
        "always_small",
        "always_large",
        "random_mix",
        "headgate",
        "oracle",
        "pgr",
        "latency_ms",
        "overhead_ms",
        "seed",
        "certificate",
        "regret",
    } <= set(data)
    assert data["headgate"]["large_share"] == 0.3
    assert data["policies"]["cascade_early_stop"] == data["headgate"]
    assert [one["large_share"] for one in data["policies"].values()] == [0.4, 0.3, 0.3]
    assert {tuple(one) for one in data["policies"].values()} == {tuple(data["headgate"])}
    assert list(data["policies"]) == ["routing", "cascade", "cascade_early_stop"]
    assert data["wasted_draft_tokens"]["cascade"] == 1300
    assert data["headgate"]["cost_usd"] == 0.000800001
    assert data["headgate"]["quality_ci95"] == pytest.approx([0.84, 0.94])
    assert data["models"]["small"] == {"share": 0.7, "quality": 0.95}
    assert data["overhead_ms"] == {"p50": 1.2, "p99": 5.6}
    assert data["regret"] == 0.02
    assert data["failed"] == 0
    assert "latency_ms" not in data["oracle"]


def test_failures_are_counted_and_named(figures):
    broken = Figures(
        **{
            **{name: getattr(figures, name) for name in figures.__slots__},
            "failures": {"routed: x": 3, "y": 1},
        }
    )
    assert as_json(broken)["failed"] == 4
    assert "Failed 3 times, counted as wrong: routed: x" in shown(broken)


def test_the_table_fits_a_terminal_and_loses_nothing(figures):
    text = shown(figures)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    rows = [line.strip() for line in text.splitlines()[3:]]
    found = [next(i for i, row in enumerate(rows) if row.startswith(name)) for name in POLICIES.values()]
    assert found == list(range(found[0], found[0] + 3)), "side by side"
    assert "900 tokens wasted instead of 1,300" in " ".join(text.split())
    headgate = next(line for line in text.splitlines() if "Headgate" in line)
    assert headgate.split() == [
        "Headgate",
        "0.890",
        "0.840–0.940",
        "0.00400",
        "40",
        "%",
        "30",
        "%",
        "12",
        "345",
    ]


def test_the_words_below_the_table(figures):
    text = " ".join(shown(figures, width=400).split())
    assert "at most 5 % of 300 requests lose quality against always using large" in text
    assert "Measured here on 190 covered: 2 % (95 % 1 % to 5 %)." in text
    assert "+0.190 (95 % +0.150 to +0.230, paired bootstrap). PGR 0.97." in text


QUEUED = Queued(
    states={"done": 197, "dead": 1}, refused=1, seconds=40.0, ran_again=2, killed_after=101, quality=0.88,
    cost_nanousd=790_000,
)  # fmt: skip


def test_the_batch_stands_beside_the_same_worksheets_on_the_line(figures: Figures) -> None:
    console = Console(file=io.StringIO(), width=80)
    show_jobs(QUEUED, 20.0, figures, console)
    text = console.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert [line.split() for line in text.splitlines() if line.startswith(("  on", "  queued"))] == [
        ["on", "the", "line", "200", "0", "0", "20.0", "10.0", "0.00400", "0.890"],
        ["queued", "197", "0", "1", "40.0", "5.0", "0.00395", "0.880"],
    ]
    assert "when 101 had ended: 2 jobs ran again, lost 1." in " ".join(text.split())


def test_the_batch_as_an_object_adds_up(figures: Figures) -> None:
    data = json.loads(json.dumps(jobs_as_json(QUEUED, 20.0, figures)))
    assert (data["jobs"], data["refused"], data["lost"], data["states"]) == (198, 1, 1, QUEUED.states)
    assert (data["jobs_per_s"], data["interactive"]["per_s"]) == (4.95, 10.0)
    assert data["cost_usd"] == pytest.approx(0.00079)
