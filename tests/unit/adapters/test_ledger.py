"""A job is charged once, by its last run; nothing else is folded, and what is folded away is told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.ledger import Fold, Record

runs = st.lists(
    st.tuples(st.sampled_from(["acme", "beta"]), st.sampled_from(["j-1", "j-2"]),
              st.sampled_from([100, 200]), st.integers(1, 9)),
    unique=True, max_size=40,
)  # fmt: skip


def record(tenant: str = "acme", job: str = "j-1", until: int = 100, run: int = 1, **fields: str) -> Record:
    name = f"{tenant}/{job}/{until}/{run}"
    told = {"record_id": name, "at": "1.5", "cost_nanousd": str(run)}
    return {"kind": "request", "tenant": tenant, "request_id": job, "job_since": str(until), "run": str(run),
            **told, **fields}  # fmt: skip


def folded(*records: Record) -> Fold:
    fold = Fold()
    for one in records:
        fold.take(one)
    return fold


@given(runs, st.randoms(use_true_random=False))
def test_of_each_job_the_last_run_counts_in_whatever_order_they_come(
    told: list[tuple[str, str, int, int]], draw: random.Random
) -> None:
    records = [record(*one) for one in told] * 2
    draw.shuffle(records)
    fold = folded(*records)
    kept = {one["record_id"] for one in records} - fold.lost.keys()
    last: dict[tuple[str, str, int], int] = {}
    for *job, run in told:
        last[tuple(job)] = max(run, last.get(tuple(job), 0))  # type: ignore[index, arg-type]
    assert kept == {f"{tenant}/{job}/{until}/{run}" for (tenant, job, until), run in last.items()}
    assert fold.lost_nanousd == sum(run for *_, run in told) - sum(last.values())


@pytest.mark.parametrize("missing", ["run", "job_since", "tenant", "request_id", "record_id", "at"])
@pytest.mark.parametrize("worth", [None, "", "x"])
def test_what_is_no_run_of_a_job_always_counts(missing: str, worth: str | None) -> None:
    ordinary = {name: value for name, value in record().items() if name != missing}
    if worth is not None and missing in ("run", "at"):
        ordinary[missing] = worth
    assert folded(ordinary, dict(ordinary, record_id="other"), {}).lost == {}


def test_a_record_that_was_written_twice_is_not_a_second_run() -> None:
    assert folded(record(), record()).lost == {}


def test_of_two_records_of_one_run_the_later_counts() -> None:
    fold = folded(record(at="3.0", record_id="later"), record(at="2.0", cost_nanousd="7"))
    assert fold.lost == {"acme/j-1/100/1": 7}
