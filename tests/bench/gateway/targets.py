"""The targets: what must be reached, and the best that the parts allow."""

from __future__ import annotations

from typing import Final

from tests.bench.gateway.figures import Formula, Target, alone, beside, more, ratio, within
from tests.bench.gateway.measure import TRACED
from tests.bench.gateway.queued import ALONE, BESIDE_BATCH, PAUSES_MS, ROUND_TRIP, many
from tests.bench.gateway.queued import CONCURRENCIES as SIZES
from tests.bench.gateway.writing import CONCURRENCIES, DRAFTED, loaded


def _decision(tokens: int, load: str) -> Formula:
    """The routing decision's share of all CPU time of a request."""
    key = f"decide_{tokens}_us"
    return lambda found, _base: found["gateway", "decide"][key] / found["gateway", load]["cpu_us"]


QUEUED: Final = (
    Target("16", "p50 of a queued round trip / of a bare Celery echo", 1.3, 1.0,
           beside("p50_ms", ROUND_TRIP, "queued", "echo")),
    Target("16", "p99 of the same", 1.3, 1.0, beside("p99_ms", ROUND_TRIP, "queued", "echo")),
    Target("16", "p50 of a queued round trip / of a bare Celery task that makes the runner's call", 1.3, 1.0,
           beside("p50_ms", ROUND_TRIP, "queued", "ask")),
    *(Target("17", f"jobs a second / of a bare Celery app that makes the runner's call, {many(size, pause_ms)}",
             0.8, 1.0, beside("per_s", many(size, pause_ms), "queued", "ask"), "higher")
      for size in SIZES for pause_ms in PAUSES_MS),
    *(Target("18", f"PSS of a busy runner of {size} / of a bare Celery app of {size}", 1.5, 1.0,
             beside("busy_pss_mb", many(size, PAUSES_MS[-1]), "queued", "ask")) for size in SIZES),
    Target("19", "p50 of Generate beside a batch line, two at once / alone", 1.1, 1.0,
           lambda found, _base: found["queued", BESIDE_BATCH]["p50_ms"] / found["queued", ALONE]["p50_ms"]),
    Target("19", "p99 of the same", 1.1, 1.0,
           lambda found, _base: found["queued", BESIDE_BATCH]["p99_ms"] / found["queued", ALONE]["p99_ms"]),
)  # fmt: skip

TARGETS: Final = (
    Target("1", "p50 at concurrency 1, gateway / bare chain", 1.6, 1.3, ratio("p50_ms", "c1"),
           beside_uvloop=True),
    Target("2", "requests a second at 16", 0.55, 0.75, ratio("per_s", "c16"), "higher", beside_uvloop=True),
    Target("3", "CPU a request of the router process, at 16", 1.7, 1.3, ratio("cpu_us", "c16"),
           beside_uvloop=True),
    Target("3", "the same at 1", 1.7, 1.3, ratio("cpu_us", "c1"), beside_uvloop=True),
    Target("7", "routing decision / CPU of a routed request, 17 tokens", 0.10, 0.06, _decision(17, "c16"),
           unit=""),
    Target("7", "the same, 62 tokens", 0.25, 0.15, _decision(62, "c16 long"), unit=""),
    Target("8", "p50 of an exact hit in Redis / of an uncached call that is decided anew, at 1", 0.6, 0.35,
           beside("p50_ms", "c1", "cached", "gateway")),
    Target("8", "the same in memory", 0.35, 0.2, beside("p50_ms", "c1", "memory", "gateway")),
    Target("8", "p50 of an exact hit in Redis / of an uncached call that was decided before, at 1", 0.6, 0.35,
           beside("p50_ms", "c1", "cached", "again")),
    Target("8", "the same in memory", 0.35, 0.2, beside("p50_ms", "c1", "memory", "again")),
    Target("9", "tokens a second, 8 streams of 64", 1.0, 3.0, ratio("tokens_per_s", "8 streams", "real"),
           "higher", beside_uvloop=True),
    Target("9", "p50 to the first token, 8 streams", 1.3, 1.1, ratio("first_p50_ms", "8 streams", "real"),
           beside_uvloop=True),
    Target("12", "start to first answer / `import onnxruntime, grpc`", 3.0, 1.5,
           within("start_s", "import_s", "start")),
    Target("12", "PSS of a gateway process", 200, 120, alone("pss_mb", "start"), unit=" MB"),
    Target("13", "p99 / p50 at 16", 2.5, 1.5, within("p99_ms", "p50_ms", "c16")),
    Target("14", "CPU a token of a draft of 256 that is held back and watched / of the same text, unread", 1.5, 1.0,
           beside("cpu_us", DRAFTED, "watched", "unread")),
    Target("14", "what watching adds to a token of such a draft", 100, 25, more("cpu_us", DRAFTED, "watched", "held"),
           unit=" µs"),
    *(Target("15", f"tokens a second through the gateway / from the worker alone, {streams} streams of 64 messages",
             0.5, 1.0, beside("tokens_per_s", loaded(streams), "gateway", "worker"), "higher")
      for streams in CONCURRENCIES),
    *QUEUED,
    Target("20", "CPU a request with every trace sent to a collector / without traces, at 16", 1.3, 1.1,
           beside("cpu_us", TRACED, "traced", "again")),
    Target("20", "the same where none is kept (`telemetry.sample: 0`)", 1.1, 1.0,
           beside("cpu_us", TRACED, "unkept", "again")),
)  # fmt: skip
