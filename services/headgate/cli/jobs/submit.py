"""`headgate jobs submit`: one question, or a file of them."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headgate.cli.connect import AddressOption, KeyOption, RootOption, TimeoutOption, worded
from headgate.cli.jobs import many, shown, watch
from headgate.cli.jobs.batch import Frame, safe
from headgate.cli.jobs.connect import queue
from headgate.cli.state import CommandError, State
from headgate.client import JobRequest
from headgate.client.jobs import Jobs
from headgate.client.types import Options

MAX_WITHIN_S = 604_800
LONGEST_BATCH = 48
"""So that a job's name has room for its custom_id."""
_BATCH = re.compile(rf"[A-Za-z0-9._:-]{{1,{LONGEST_BATCH}}}")


class JobClassName(StrEnum):
    """The queues, as the option takes them."""

    batch = "batch"
    interactive = "interactive"


def submit(
    context: typer.Context,
    question: Annotated[
        str | None, typer.Argument(help="One question; left out, or -, it is read from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Many: JSON lines as OpenAI's batches have them.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Names what is submitted together; else the file's name.")] = "",
    job_class: Annotated[
        JobClassName, typer.Option("--class", help="The queue: batch when there is time.")
    ] = JobClassName.batch,
    within_s: Annotated[
        int, typer.Option("--within", min=0, max=MAX_WITHIN_S, help="Give up after so many s; 0: a day.")
    ] = 0,
    not_before: Annotated[
        str, typer.Option("--not-before", help="Run it from then on: 22:00, or 2026-12-01T22:00.")
    ] = "",
    model: Annotated[str, typer.Option(help="Pin this model instead of routing; of one question.")] = "",
    risk_target: Annotated[
        float | None, typer.Option(help="Share of requests that may lose quality.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until all have ended.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --file and --wait: the file that results go to.")
    ] = None,
    as_object: Annotated[bool, typer.Option("--json", help="Of one question: a JSON object.")] = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Queue a question, or a file of them, to be answered when there is room. The job's name goes to stdout.

    [bold]headgate jobs submit "4711 in words"[/bold]

    [bold]headgate jobs submit "4711 in words" --wait[/bold]

    [bold]headgate jobs submit --file evening.jsonl --wait --out results.jsonl[/bold]

    [bold]headgate jobs submit --file evening.jsonl --not-before 22:00[/bold]

    A line of such a file:

    {"custom_id": "q-17", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "auto",
    "messages": \\[{"role": "user", "content": "4711 in words"}]}}

    The model "auto" is routed; any other name pins that model. Submitting a file again is harmless: a
    job is named by batch and custom_id, so evening:q-17 is there once. Stop and repeat the command at any
    time: it goes on after what --out holds. A bad line is named and the others go on; the exit code is 1
    if any line has no answer.
    """
    state: State = context.obj
    _consistent(question, file, model, out, wait=wait, as_object=as_object)
    begins = _instant(not_before, datetime.now().astimezone()) if not_before else None
    frame = Frame(_batch_of(batch, file), job_class.value, within_s, risk_target, begins)
    with queue(state, address, key, root_certificate, timeout_s) as jobs:
        if file is None:
            good = _one(jobs, _question(question, model, frame), wait=wait, as_object=as_object)
        else:
            good = many.submit(jobs, file, frame, out, limit_s=timeout_s)
    if not good:
        raise typer.Exit(1)


def _consistent(
    question: str | None, file: Path | None, model: str, out: Path | None, *, wait: bool, as_object: bool
) -> None:
    if file is not None and question is not None:
        raise CommandError("give a question or --file, not both")
    if file is not None and (model or as_object):
        raise CommandError(
            "--model and --json are for one question; lines of a file name their model themselves"
        )
    if out is not None and (file is None or not wait):
        raise CommandError("--out takes the results of --file with --wait")
    if file is not None and wait and out is None:
        raise CommandError("--wait with --file needs --out, the file that results go to")


def _instant(given: str, now: datetime) -> datetime:
    """An ISO instant, or the next time that clocks here show `given`."""
    try:
        if re.fullmatch(r"\d{1,2}:\d\d", given):
            at = now.replace(hour=int(given[:-3]), minute=int(given[-2:]), second=0, microsecond=0)
            return at if at > now else at + timedelta(days=1)
        return datetime.fromisoformat(given).astimezone()
    except ValueError:
        raise CommandError(f"--not-before: {given!r} must be 22:00, or 2026-12-01T22:00") from None


def _batch_of(given: str, file: Path | None) -> str:
    if given and not _BATCH.fullmatch(given):
        raise CommandError(
            f"--batch is 1 to {LONGEST_BATCH} letters, digits, dots, dashes, underscores or colons"
        )
    if given or file is None:
        return given
    return safe(file.stem, LONGEST_BATCH)


def _question(question: str | None, model: str, frame: Frame) -> JobRequest:
    if question is None and sys.stdin.isatty():
        raise CommandError('what is the question? For example: headgate jobs submit "4711 in words"')
    text = worded(sys.stdin.read() if question is None or question == "-" else question)
    options: Options = {"model": model}
    if frame.risk_target is not None:
        options["risk_target"] = frame.risk_target
    return JobRequest(text, frame.job_class, frame.batch, frame.within_s, options, frame.not_before)


def _one(jobs: Jobs, request: JobRequest, *, wait: bool, as_object: bool) -> bool:
    """Whether it is accepted, or, where it was waited for, answered."""
    job = jobs.submit(
        request.conversation,
        job_class=request.job_class,
        batch=request.batch,
        within_s=request.within_s,
        not_before=request.not_before,
        **request.options,
    )
    if wait:
        job = watch.show(jobs.watch(job.job_id), quiet=as_object)
    if as_object:
        print(json.dumps(shown.as_object(job)))
    elif not wait:
        print(job.job_id)
        if job.not_before:
            print(f"not before {shown.clock(job.not_before)}", file=sys.stderr)
    return job.state == "done" or not wait
