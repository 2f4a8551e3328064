"""The commands about jobs that are there: list, get, cancel, dead, replay."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from headgate.cli.connect import AddressOption, KeyOption, RootOption, TimeoutOption
from headgate.cli.jobs import shown
from headgate.cli.jobs.connect import queue
from headgate.cli.jobs.submit import submit
from headgate.cli.jobs.watch import watch
from headgate.cli.state import CommandError
from headgate.client import HeadgateError, Job
from headgate.client.jobs import Jobs

_EPILOG = """
From a file to its answers:

  headgate jobs submit --file evening.jsonl --wait --out results.jsonl

  headgate jobs list --batch evening         how far they are

  headgate jobs dead                         what was given up, and why

  headgate jobs replay --all                 queue that again
"""

app = typer.Typer(
    help="Queue queries to be answered later, watch them, and fetch their answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=_EPILOG,
)
app.command("submit")(submit)
app.command("watch")(watch)
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Its name.")]
LimitOption = Annotated[int, typer.Option(min=0, help="At most so many, the newest first; 0: all.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list")
def list_jobs(
    context: typer.Context,
    batch: Annotated[str, typer.Option(help="Only those of this batch.")] = "",
    limit: LimitOption = 50,
    as_object: JsonOption = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Show your jobs: state, queue, age, runs; of those that are done, model and cost. --json has no answers.

    [bold]headgate jobs list[/bold]

    [bold]headgate jobs list --batch evening --limit 0 --json | jq -r .state | sort | uniq -c[/bold]
    """
    with queue(context.obj, address, key, root_certificate, timeout_s) as jobs:
        listed = islice(jobs.list(batch), limit + 1 if limit else None)
        _list(listed, limit, as_object, lambda found: shown.table(jobs, found))


@app.command()
def get(
    context: typer.Context,
    job_id: JobArgument,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object, answer included.")] = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Say what became of a job; its answer goes to stdout.

    [bold]headgate jobs get evening:q-17[/bold]

    [bold]headgate jobs get evening:q-17 --json | jq .answer.decision.model[/bold]
    """
    with queue(context.obj, address, key, root_certificate, timeout_s) as jobs:
        job = jobs.get(job_id)
    if as_object:
        print(json.dumps(shown.as_object(job)))
        return
    if job.answer is not None:
        print(job.answer.text)
    _say(job)


@app.command()
def cancel(
    context: typer.Context,
    job_id: JobArgument,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """End a job: one that waits never starts, one that runs is stopped, one that has ended stays as it is.

    [bold]headgate jobs cancel evening:q-17[/bold]
    """
    with queue(context.obj, address, key, root_certificate, timeout_s) as jobs:
        job = jobs.cancel(job_id)
    _say(job)
    if job.state != "cancelled":
        print("it had ended already: nothing was cancelled", file=sys.stderr)


@app.command()
def dead(
    context: typer.Context,
    limit: LimitOption = 50,
    as_object: JsonOption = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Show the dead letters: jobs that were given up after several runs, with the reason.

    [bold]headgate jobs dead[/bold]
    """
    with queue(context.obj, address, key, root_certificate, timeout_s) as jobs:
        listed = islice(jobs.dead(), limit + 1 if limit else None)
        _list(listed, limit, as_object, shown.dead)


@app.command()
def replay(
    context: typer.Context,
    job_id: Annotated[str | None, typer.Argument(metavar="JOB", help="A dead job's name.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead job of yours.")] = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Queue a dead job again, as if it had never run, or all of them. Any other job stays as it is.

    [bold]headgate jobs replay evening:q-17[/bold]

    [bold]headgate jobs replay --all[/bold]
    """
    if (job_id is None) != everything:
        raise CommandError("which? Give a dead job's name, or --all")
    with queue(context.obj, address, key, root_certificate, timeout_s) as jobs:
        if job_id is not None:
            job = jobs.replay(job_id)
            _say(job)
            if job.state != "queued":
                print("only a dead job can be replayed: it stays as it is", file=sys.stderr)
        elif not _replay_all(jobs):
            raise typer.Exit(1)


def _list(
    listed: Iterable[Job], limit: int, as_object: bool, table: Callable[[Iterable[Job]], Table]
) -> None:
    """Prints them; `listed` has one more than `limit` where there are more."""
    if as_object:
        for job in islice(listed, limit or None):
            print(json.dumps(shown.as_object(job)))
        return
    found = list(listed)
    if not found:
        print("no jobs", file=sys.stderr)
        return
    # Where nobody looks nothing is too wide.
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 200).print(table(found[: limit or None]))
    if limit and len(found) > limit:
        print(f"the newest {limit:,}; --limit 0 shows all", file=sys.stderr)


def _replay_all(jobs: Jobs) -> bool:
    """Whether all are queued again. Lists them first: a replayed job leaves the pages that follow."""
    names, failed = [job.job_id for job in jobs.dead(page_size=1_000)], 0
    for name in names:
        try:
            jobs.replay(name)
        except HeadgateError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr)
    print(f"{shown.count(len(names) - failed, 'dead job')} queued again", file=sys.stderr)
    return failed == 0


def _say(job: Job) -> None:
    typer.secho(shown.line(job), err=True, dim=True)
