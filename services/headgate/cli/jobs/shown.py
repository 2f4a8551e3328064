"""Jobs in words and tables, for people, and as JSON, for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from rich import box
from rich.table import Table

from headgate.cli.words import as_json, dollars
from headgate.client import Job, NotFound, usd
from headgate.client.jobs import Jobs

_STYLES = {"done": "green", "failed": "red", "dead": "red", "running": "cyan", "cancelled": "dim"}


def line(job: Job) -> str:
    """One line about a job: state, queue, runs, and what it came to."""
    parts = [f"job {job.job_id}", job.state, job.job_class, _begins(job), runs(job.runs)]
    if job.answer is not None:
        decision = job.answer.decision
        parts += [decision.model, decision.reason.replace("_", " "), dollars(decision.cost_nanousd)]
    if job.error is not None:
        parts.append(str(job.error))
    return " · ".join(filter(None, parts))


def _begins(job: Job) -> str:
    """`not before 2026-12-01 22:00`; nothing where it may run."""
    return f"not before {clock(job.not_before)}" if job.not_before else ""


def clock(at: datetime) -> str:
    """`2026-12-01 22:00`, by the clocks here."""
    return f"{at.astimezone():%Y-%m-%d %H:%M}"


def count(number: int, what: str) -> str:
    """`1 job`, `2,000 jobs`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def runs(number: int) -> str:
    """`2 runs`; nothing before the first."""
    return count(number, "run") if number else ""


def as_object(job: Job) -> dict[str, Any]:
    """The job as JSON data; times in ISO 8601, money as decimal dollars."""
    told: dict[str, Any] = {
        "job_id": job.job_id,
        "state": job.state,
        "job_class": job.job_class,
        "batch": job.batch,
        "created": _iso(job.created),
        "ended": _iso(job.ended),
        "expires": _iso(job.expires),
        "not_before": _iso(job.not_before),
        "runs": job.runs,
        "answer": None,
        "error": None,
    }
    if job.answer is not None:
        told["answer"] = {
            "text": job.answer.text,
            "finish_reason": job.answer.finish_reason,
            "usage": asdict(job.answer.usage),
            "decision": as_json(job.answer.decision),
        }
    if job.error is not None:
        told["error"] = {"code": job.error.code.name, "reason": job.error.reason, "message": str(job.error)}
    return told


def _table(*columns: str) -> Table:
    """Whose first column can be copied: a name is never cut."""
    shown = Table(box=box.HORIZONTALS, padding=(0, 1), collapse_padding=True)
    shown.add_column("job", no_wrap=True, overflow="fold")
    for column in columns:
        shown.add_column(column)
    return shown


def table(jobs: Jobs, listed: Iterable[Job]) -> Table:
    """What became of each; asks for those that are done, because a list leaves answers out."""
    shown = _table("state", "class", "age", "runs", "model", "cost")
    now = datetime.now(UTC)
    for job in listed:
        answer = (_whole(jobs, job) if job.state == "done" else job).answer
        paid = (answer.decision.model, f"${usd(answer.decision.cost_nanousd):f}") if answer else ("", "")
        state = f"[{_STYLES[job.state]}]{job.state}[/]" if job.state in _STYLES else job.state
        if job.not_before:
            state = f"from {job.not_before.astimezone():%d %b %H:%M}"
        shown.add_row(job.job_id, state, job.job_class, age(job, now), str(job.runs), *paid)
    return shown


def dead(listed: Iterable[Job]) -> Table:
    """What was given up, and why."""
    shown = _table("batch", "age", "runs", "reason")
    now = datetime.now(UTC)
    for job in listed:
        shown.add_row(job.job_id, job.batch, age(job, now), str(job.runs), str(job.error or ""))
    return shown


def age(job: Job, now: datetime) -> str:
    """Since it was accepted: `42 s`, `7 min`, `3 h`, `2 d`."""
    seconds = max(now - job.created, timedelta()).total_seconds() if job.created else 0.0
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length or (unit != "min" and seconds >= length):
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _whole(jobs: Jobs, job: Job) -> Job:
    try:
        return job if job.answer else jobs.get(job.job_id)
    except NotFound:
        return job


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
