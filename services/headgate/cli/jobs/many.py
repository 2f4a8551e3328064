"""A file of jobs: submitted while it is read, waited for, and written down as they end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from headgate.cli.jobs import batch as batches
from headgate.cli.jobs import shown
from headgate.cli.jobs.batch import Frame, Line, LineError
from headgate.cli.jobs.results import Results
from headgate.cli.jobs.wait import ended
from headgate.cli.state import CommandError
from headgate.client import AlreadyExists, HeadgateError, InvalidRequest, Job, JobRequest, NotFound, Refused
from headgate.client.jobs import Jobs


@dataclass(slots=True)
class Tally:
    """What came of a file, line by line."""

    file: str
    progress: Progress
    done: int = 0
    """Bytes of the file whose lines have come to something."""
    accepted: int = 0
    bad: int = 0
    there: int = 0
    unanswered: int = 0
    sent: dict[str, Line] = field(default_factory=dict)
    """Lines on their way, by job."""
    sizes: dict[str, int] = field(default_factory=dict)
    later: datetime | None = None
    """When the last of those may run that wait for their time."""
    waiting: dict[str, str] = field(default_factory=dict)
    """From job to custom_id."""

    def say(self, told: str) -> None:
        """Above the bar."""
        self.progress.console.print(told, markup=False, highlight=False, soft_wrap=True)

    def refuse(self, number: int, told: object) -> None:
        """Names a line that is not submitted."""
        self.bad += 1
        self.say(f"{self.file}:{number}: {told}")


def submit(jobs: Jobs, path: Path, frame: Frame, out: Path | None, *, limit_s: float) -> bool:
    """Whether every line was accepted, and, where `out` takes the results, answered.

    Gives up after `limit_s` without a gateway.
    """
    with (
        _opened(path) as file,
        Results(out) if out is not None else nullcontext() as results,
        _bar() as progress,
    ):
        tally = Tally(str(path), progress)
        try:
            _send(jobs, file, frame, results, tally)
            tally.say(_accepted(tally, frame.batch))
            if results is not None:
                _collect(jobs, frame.batch, results, tally, limit_s)
        except (KeyboardInterrupt, HeadgateError):
            tally.say("what was accepted goes on without you; the same command goes on from here")
            raise
    return tally.bad == tally.unanswered == 0


def _send(jobs: Jobs, file: BinaryIO, frame: Frame, results: Results | None, tally: Tally) -> None:
    """Submits the file while it is read; remembers what to wait for."""
    task = tally.progress.add_task("", total=os.fstat(file.fileno()).st_size or None)
    for outcome in jobs.submit_many(_requests(file, frame, results, tally)):
        line = tally.sent.pop(outcome.job_id)
        tally.done += tally.sizes.pop(outcome.job_id)
        if isinstance(outcome, Refused):
            tally.refuse(line.number, _refusal(outcome.error))
            continue
        tally.accepted += 1
        if outcome.not_before is not None:
            tally.later = max(outcome.not_before, tally.later or outcome.not_before)
        told = f"{tally.accepted:,} submitted"
        tally.progress.update(task, description=told, completed=tally.done)
        if results is not None:
            tally.waiting[outcome.job_id] = line.custom_id
    tally.progress.remove_task(task)


def _requests(file: BinaryIO, frame: Frame, results: Results | None, tally: Tally) -> Iterator[JobRequest]:
    """Good lines that have no result yet; bad ones are named."""
    first: dict[str, int] = {}
    for number, raw in enumerate(file, 1):
        if not raw.strip():
            tally.done += len(raw)
            continue
        try:
            line = batches.parse(number, raw, frame)
            before = first.setdefault(line.custom_id, number)
            if before != number:
                raise LineError("custom_id", f"is that of line {before} too")  # noqa: TRY301
        except LineError as error:
            tally.refuse(number, error)
            tally.done += len(raw)
            continue
        if results is not None and line.job_id in results.there:
            tally.there += 1
            tally.done += len(raw)
            continue
        tally.sent[line.job_id] = line
        tally.sizes[line.job_id] = len(raw)
        yield line.request


def _collect(jobs: Jobs, batch: str, results: Results, tally: Tally, limit_s: float) -> None:
    """Writes what ends as it ends."""
    count = len(tally.waiting)
    task = tally.progress.add_task("", total=count or None)
    for job, custom_id in ended(jobs, batch, tally.waiting, limit_s):
        if isinstance(job, NotFound):
            tally.unanswered += 1
            tally.say(f"{custom_id}: the gateway does not know this job any more: submit the file again")
        else:
            results.write(custom_id, job)
            _told(job, custom_id, tally)
        told = f"{count - len(tally.waiting):,} of {count:,} ended"
        tally.progress.update(task, description=told, advance=1)
    tally.say(f"{shown.count(len(results.there), 'result')} in {results.path}")


def _told(job: Job, custom_id: str, tally: Tally) -> None:
    if job.answer is None:
        tally.unanswered += 1
        tally.say(f"{custom_id}: {job.state}: {job.error or 'no answer'}")


def _refusal(error: HeadgateError) -> str:
    """The gateway's reason, in the words of the file."""
    if isinstance(error, InvalidRequest) and error.fields:
        return "; ".join(f"{_in_file(one.field)}: {one.rule}" for one in error.fields)
    if isinstance(error, AlreadyExists):
        return "custom_id: the batch has another query of that name: give --batch another name"
    return str(error)


def _in_file(field: str) -> str:
    """`job.query.sampling.temperature` → `body.temperature`."""
    return re.sub(r"^(job\.)?query\.(sampling\.)?", "body.", field)


def _accepted(tally: Tally, batch: str) -> str:
    parts = [f"{shown.count(tally.accepted, 'job')} in batch {batch}"]
    if tally.later:
        parts.append(f"not before {shown.clock(tally.later)}")
    if tally.there:
        parts.append(f"{tally.there:,} with an answer already")
    if tally.bad:
        parts.append(shown.count(tally.bad, "bad line"))
    return ", ".join(parts)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CommandError(f"--file: {path} cannot be read: {error.strerror}") from None


def _bar() -> Progress:
    """None where nobody looks."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
