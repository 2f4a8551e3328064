"""Which of the ledger's records count: a job is charged once, however often it was run.

A runner that dies leaves its run to another one, and a frozen one goes on beside it: each run is a call of
the gateway with a record of its own. The last run is the one that gives the job its answer, and what its
tenant is charged; what the others cost is nobody's charge, and is told apart.

Whoever counts requests or money of the ledger asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Record = Mapping[str, str]


class _Run(NamedTuple):
    """In the order in which they count."""

    number: int
    at: float
    record_id: str
    cost_nanousd: int


class Fold:
    """Takes records in any order, each once or more."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], _Run] = {}
        self.lost: dict[str, int] = {}
        """Records that do not count, by `record_id`: what each run cost, in nano-dollars."""

    def take(self, record: Record) -> None:
        """A record of any kind; one that is no job's always counts, and so does what cannot be read."""
        try:
            job, run = _job(record), _run(record)
        except (KeyError, ValueError):
            return
        last = self._last.setdefault(job, run)
        self._last[job] = max(last, run)
        if last.record_id != run.record_id:
            lost = min(last, run)
            self.lost[lost.record_id] = lost.cost_nanousd

    @property
    def lost_nanousd(self) -> int:
        """What all runs cost that do not count."""
        return sum(self.lost.values())


def _job(record: Record) -> tuple[str, str, str]:
    """A name is free again when its job is forgotten: when it was accepted tells the two apart."""
    return record["tenant"], record["request_id"], record["job_since"]


def _run(record: Record) -> _Run:
    return _Run(
        int(record["run"]), float(record["at"]), record["record_id"], int(record.get("cost_nanousd") or 0)
    )
