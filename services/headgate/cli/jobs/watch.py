"""One job as it comes about: its text on stdout, what is told about it on stderr."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from headgate.cli.connect import AddressOption, KeyOption, RootOption, TimeoutOption
from headgate.cli.jobs import shown
from headgate.cli.jobs.connect import queue
from headgate.cli.state import State
from headgate.client import Delta, Job, JobStream, ModelSwitched


def watch(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="Its name.")],
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object at the end.")] = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Follow a job until it has ended; its text streams to stdout. Exit code 1 if it has no answer.

    Ctrl-C ends the watching, not the job. A broken connection is taken up again where it broke, for --timeout
    seconds.

    [bold]headgate jobs watch evening:q-17[/bold]

    [bold]headgate jobs watch evening:q-17 --json | jq -r .answer.text[/bold]
    """
    state: State = context.obj
    with queue(state, address, key, root_certificate, timeout_s) as jobs:
        job = show(jobs.watch(job_id), quiet=as_object)
    if as_object:
        print(json.dumps(shown.as_object(job)))
    if job.state != "done":
        raise typer.Exit(1)


def show(stream: JobStream, *, quiet: bool = False) -> Job:
    """Shows events as they come; a line that was begun is ended even when the watch breaks."""
    begun = False
    job: Job | None = None
    try:
        with stream:
            for event in stream:
                if isinstance(event.what, Delta) and not quiet:
                    begun = True
                    print(event.what.text, end="", flush=True)
                elif isinstance(event.what, ModelSwitched):
                    _say(f"→ {event.what.to_model}: {event.what.explanation or 'it answers.'}")
                elif isinstance(event.what, Job):
                    job, begun = event.what, _state(event.what, begun=begun)
    finally:
        if begun:
            print(flush=True)
    assert job is not None  # noqa: S101 - a watch ends with a state, or raises
    return job


def _state(job: Job, *, begun: bool) -> bool:
    """Says the new state, on a line of its own; whether a line of text is open after it."""
    if begun:
        print(flush=True)
    if begun and not job.has_ended:
        _say("that run did not come to its end; what follows is the next one's")
    _say(shown.line(job))
    return False


def _say(told: str) -> None:
    typer.secho(told, err=True, dim=True)
