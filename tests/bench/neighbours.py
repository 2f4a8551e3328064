"""`python -m tests.bench.neighbours`: how long a nearest question takes to find, flat and by usearch's graph.

Vectors are drawn around 200 topics; what is looked for is an entry with a little noise. The column of the
house is the index itself, entries added one by one as a gateway adds them. Milliseconds are the machine's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from usearch.index import Index

from headgate.gateway import neighbours
from headgate.gateway.neighbours import Entry, Neighbours, Vector

SEED = 7
SIZES = (2_000, 10_000, 50_000, 100_000)
DIM = 128
TOPICS = 200
ASKED = 500
NOISE = 0.03


def main() -> int:
    """Prints one row a size and way."""
    rng = np.random.default_rng(SEED)
    topics = rng.normal(size=(TOPICS, DIM))
    print(f"{'rows':>8} {'way':14} {'recall@1':>8} {'p50 µs':>8} {'p99 µs':>8} {'add µs':>8} {'MB':>6}")
    for size in SIZES:
        rows = _unit(0.7 * topics[rng.integers(TOPICS, size=size)] + rng.normal(size=(size, DIM)))
        asked = _unit(rows[rng.integers(size, size=ASKED)] + NOISE * rng.normal(size=(ASKED, DIM)))
        truth = [int(np.argmax(rows @ one)) for one in asked]
        _row(
            size,
            "flat float32",
            truth,
            asked,
            lambda one, rows=rows: int(np.argmax(rows @ one)),
            0.0,
            rows.nbytes,
        )  # type: ignore[misc]
        for kind in ("f32", "f16", "i8"):
            _graph(size, kind, rows, asked, truth)
        _house(size, rows, asked, truth)
    return 0


def _unit(rows: np.ndarray) -> Vector:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _graph(size: int, kind: str, rows: Vector, asked: Vector, truth: Sequence[int]) -> None:
    index = Index(ndim=DIM, metric="ip", dtype=kind)
    began = time.perf_counter()
    for number, row in enumerate(rows):
        index.add(number, row, threads=1)
    each = (time.perf_counter() - began) / size
    find = lambda one: int(index.search(one, neighbours.MOST_LOOKED, threads=1).keys[0])  # noqa: E731
    _row(size, f"graph {kind}", truth, asked, find, each, index.memory_usage)


def _house(size: int, rows: Vector, asked: Vector, truth: Sequence[int]) -> None:
    index = Neighbours(lambda a, b: "", of_tenant=size, in_all=size)
    entries = [
        Entry(number.to_bytes(16, "big"), b"s", "t", b"r", b"a", row, b"", "m", (), 0.0, 2.0)
        for number, row in enumerate(rows)
    ]
    began = time.perf_counter()
    for one in entries:
        index.add(one, 1.0)
    each = (time.perf_counter() - began) / size

    def find(one: Vector) -> int:
        found = index.nearest(b"s", one, b"", 1.0)
        return int.from_bytes(found.entry.id, "big") if found else -1

    _row(size, "this house's", truth, asked, find, each, 0)


def _row(
    size: int,
    way: str,
    truth: Sequence[int],
    asked: Vector,
    find: Callable[[Vector], int],
    each: float,
    held: int,
) -> None:
    found, took = [], []
    for one in asked:
        began = time.perf_counter()
        found.append(find(one))
        took.append(1e6 * (time.perf_counter() - began))
    recall = float(np.mean(np.array(found) == np.array(truth)))
    p50, p99 = np.quantile(took, [0.5, 0.99])
    print(
        f"{size:8} {way:14} {recall:8.3f} {p50:8.0f} {p99:8.0f} {1e6 * each:8.0f} {held / 1e6:6.1f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
