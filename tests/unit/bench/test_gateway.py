"""The benchmark itself: its statistics, its pages, and that it runs from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.gateway import load, page, profile
from tests.bench.gateway.__main__ import main
from tests.bench.gateway.figures import Run, Target, percentile, ratio, spread
from tests.bench.gateway.measure import LONG, SHORT, TRACED
from tests.bench.gateway.page import Origin
from tests.bench.gateway.queued import ALONE, BESIDE_BATCH, PAUSES_MS, QUEUED_SIDES, ROUND_TRIP, many
from tests.bench.gateway.queued import CONCURRENCIES as SIZES
from tests.bench.gateway.stage import SIDES, TRACED_SIDES
from tests.bench.gateway.targets import TARGETS
from tests.bench.gateway.writing import CONCURRENCIES, DRAFTED, DRAFTING_SIDES, WRITTEN_SIDES, loaded

ORIGIN = Origin("abc1234", "a machine with 2 cores", "Python 3.11.7", 1, "h2load", True)
UNARY = ("p50_ms", "p99_ms", "per_s", "cpu_us")


def runs(times: float) -> list[Run]:
    """Two rounds in which the gateway takes `times` as long as the bare chain, and half of that again."""
    made = []
    for number, slower in enumerate((times, 1.5 * times)):
        sides = {"bare": 1.0, "uvloop": 0.8, "gateway": slower, "again": slower / 2, "cached": slower / 4,
                 "memory": slower / 8, "real": slower / 2}  # fmt: skip
        for side, cost in sides.items():
            figures = {"p50_ms": cost, "p99_ms": 1.2 * cost, "per_s": 1000 / cost, "cpu_us": 500 * cost}
            streamed = {"tokens_per_s": 1000 / cost, "first_p50_ms": cost}
            made += [Run(number, side, name, figures) for name in ("c1", "c16", "c16 long")]
            made += [Run(number, side, name, streamed) for name in ("1 stream", "8 streams")]
        for load_name in (DRAFTED, *map(loaded, CONCURRENCIES)):
            for side, cost in {
                "watched": 1.2,
                "held": 0.8,
                "unread": 1.0,
                "gateway": slower,
                "worker": 1.0,
            }.items():
                made.append(Run(number, side, load_name, {"cpu_us": 50 * cost, "tokens_per_s": 1000 / cost}))
        made += [
            Run(number, side, TRACED, {"cpu_us": cost})
            for side, cost in {"again": 100.0, "traced": 125.0, "unkept": 105.0}.items()
        ]
        made += _of_jobs(number, slower)
        made.append(Run(number, "gateway", "decide", {"decide_17_us": 50.0, "decide_62_us": 90.0}))
        made.append(Run(number, "gateway", "start", {"start_s": 0.5, "import_s": 0.25, "pss_mb": 90.0}))
    return made


def _of_jobs(number: int, cost: float) -> list[Run]:
    trips = {"queued": 2 * cost, "echo": 1.0, "ask": cost}
    made = [
        Run(number, side, ROUND_TRIP, {"p50_ms": took, "p99_ms": 2 * took}) for side, took in trips.items()
    ]
    made += [
        Run(number, side, many(size, pause_ms), {"per_s": 100 / took, "busy_pss_mb": 100 * took})
        for side, took in (("queued", 1.25), ("ask", 1.0)) for size in SIZES for pause_ms in PAUSES_MS
    ]  # fmt: skip
    made += [
        Run(number, "queued", load, {"p50_ms": took, "p99_ms": took})
        for load, took in ((ALONE, 1.0), (BESIDE_BATCH, 1.05))
    ]
    return made


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.5, 50), (0.501, 51), (0.99, 99), (0.999, 100), (1.0, 100)]
)
def test_percentiles_are_values_that_occurred(share: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_a_spread_is_median_least_and_largest() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.least, found.largest) == (2.5, 1.0, 10.0)


def test_ratios_are_taken_within_a_round() -> None:
    """Otherwise a busy minute of the machine would pass for a finding."""
    calm_then_busy = [
        Run(number, side, "c1", {"p50_ms": busy * cost})
        for number, busy in enumerate((1.0, 7.0))
        for side, cost in (("bare", 2.0), ("gateway", 3.0))
    ]
    target = Target("1", "p50", 1.6, 1.3, ratio("p50_ms", "c1"))
    assert target.reached(calm_then_busy) == spread([1.5, 1.5])


def test_sides_are_held_beside_each_other_within_a_round() -> None:
    row = [target for target in TARGETS if target.row == "14"]
    assert [target.reached(runs(1.0)).median for target in row] == pytest.approx([1.2, 20.0])


def test_queued_work_is_held_beside_the_bare_app_that_does_the_same() -> None:
    reached = [
        target.reached(runs(1.0)).median for target in TARGETS if target.row in ("16", "17", "18", "19")
    ]
    assert reached == pytest.approx([2.5, 2.5, 2.0, *[0.8] * 4, *[1.25] * 2, 1.05, 1.05])


def test_hits_are_held_beside_calls_decided_anew_and_before() -> None:
    reached = [target.reached(runs(1.0)).median for target in TARGETS if target.row == "8"]
    assert reached == pytest.approx([1 / 4, 1 / 8, 1 / 2, 1 / 4])


def test_traces_are_held_beside_the_same_gateway_without_them() -> None:
    reached = [target.reached(runs(1.0)).median for target in TARGETS if target.row == "20"]
    assert reached == pytest.approx([1.25, 1.05])


def test_what_must_be_larger_is_missed_when_it_is_smaller() -> None:
    rate = Target("2", "rate", 0.5, 0.75, ratio("per_s", "c1"), "higher")
    assert (rate.met(0.5), rate.met(0.49)) == (True, False)
    time = Target("1", "p50", 1.6, 1.3, ratio("p50_ms", "c1"))
    assert (time.met(1.6), time.met(1.61)) == (True, False)


def test_the_page_shows_every_target_and_every_run() -> None:
    text = page.page(runs(1.2), ORIGIN, {})
    row = "| 1 | p50 at concurrency 1, gateway / bare chain | ≤ 1.60× | ≤ 1.30× "
    assert row + "| 1.50× (1.20× to 1.80×) | yes |" in text
    assert text.count("| 1 | ") >= len(runs(1.2)) // 2
    assert "Where the time goes" not in text
    assert "commit" in ORIGIN.line().lower()


def test_a_missed_target_is_named_and_its_profile_shown() -> None:
    slow = runs(9.0)
    assert {target.row for target in page.missed(slow)} >= {"1", "2", "3"}
    text = page.page(slow, ORIGIN, {"A profile:": [("metrics", 0.25)]})
    assert "**no**" in text
    assert "| metrics | 25% |" in text


def test_the_data_has_every_figure() -> None:
    found = json.loads(page.data(runs(1.2), ORIGIN, {}))
    assert len(found["runs"]) == len(runs(1.2))
    assert [one["row"] for one in found["targets"]] == [target.row for target in TARGETS]
    assert found["origin"]["seed"] == 1


def test_a_sample_belongs_to_the_innermost_known_frame() -> None:
    loop = "main (gateway/process.py:33);run (uvloop/__init__.py:92)"
    lines = [
        f"{loop} 5",
        f"{loop};decide (decide.py:70);extract (features.py:99);_sum (numpy/core.py:1) 3",
        f"{loop};_call (gateway/conductor.py:9);read (grpc/aio/_call.py:1) 2",
        "Thread.run (threading.py:1);serve (socketserver.py:2) 100",
    ]
    assert profile.shares(lines) == [
        ("event loop and gRPC's core", 0.5), ("brain: features", 0.3),
        ("call of the worker (gRPC's Python side)", 0.2),
    ]  # fmt: skip


def test_imports_are_counted_by_package() -> None:
    lines = [
        "import time: self [us] | cumulative | imported package",
        "import time:       600 |        600 | numpy._core",
        "import time:       200 |        800 |   numpy",
        "import time:       190 |        190 | json.decoder",
        "import time:        10 |         10 | tiny",
    ]
    found = dict(profile.imported(lines))
    assert found == pytest.approx(
        {"`numpy`": 0.8, "Python's own library": 0.19, "the rest, in small pieces": 0.01}
    )


def test_h2load_s_log_is_read() -> None:
    found = load._logged(["1000000\t200\t500", "1000400\t200\t1500", "1000900\t500\t9"], 4)
    assert found == load.Timing((0.5, 1.5), 0.0019, failed=2)


def test_without_h2load_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="nghttp2-client"):
        load.generator("h2load")


def test_the_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    small = ["--rounds", "1", "--calls", "60", "--streams", "8", "--generator", "grpc", "--no-profile"]
    assert main([*small, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    sides = {run["side"] for run in found["runs"]}
    assert sides == {
        *SIDES, *TRACED_SIDES, "real",
        *DRAFTING_SIDES, *WRITTEN_SIDES, *QUEUED_SIDES,
    }  # fmt: skip
    assert all(run.get("failed", 0) == run.get("spans_lost", 0) == 0 for run in found["runs"])
    page = (tmp_path / "bench.md").read_text()
    assert [page.count(f"\n| {row} | ") for row in (8, 12, 14, 15, 16, 17, 18, 19, 20)] == [
        4, 2, 2, 3, 3, 4, 2, 2, 2,
    ]  # fmt: skip


def test_queries_have_the_length_that_the_targets_speak_of() -> None:
    assert [len(text.encode()) for text in (SHORT, LONG)] == [67, 248]
