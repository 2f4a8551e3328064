"""A stack of its own on free ports, the exercise with a progress bar, the table."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headgate.adapters import settings
from headgate.adapters.settings import Loaded
from headgate.cli.demo.exercise import OTHERS, Exam, Exercise
from headgate.cli.demo.figures import compute
from headgate.cli.demo.queued import Batch, Queued
from headgate.cli.demo.report import as_json, jobs_as_json, show, show_jobs
from headgate.cli.state import State
from headgate.client import AsyncClient
from headgate.local.interrupt import interruptible
from headgate.local.lines import readable
from headgate.local.supervisor import Stack
from headgate.worker.backends.builtin.worksheets import Worksheet, balanced

# No cache, so that each cost and latency is that of a real answer; no lame duck, since nobody else calls.
CONFIG = """\
version: 1
pool:
  small: {source: small, queue: 64}
  large: {source: large, queue: 64}
gateway:
  open: true
  listen: 127.0.0.1:0
  admin_listen: 127.0.0.1:0
  metrics_listen: 127.0.0.1:0
  lame_duck_s: 0
  drain_s: 2
cache:
  enabled: false
log_level: warning
"""
# A runner that was killed is missed after two seconds: whoever looks on need not wait.
JOBS = """\
jobs: {enabled: true, concurrency: 4, lease_s: 2, grace_s: 1, metrics_listen: 127.0.0.1:0}
"""
MODELS = 2
Found = tuple[Exercise, Queued | None]
INTERRUPTED = 130


def run(state: State, queries: int, seed: int | None, concurrency: int, jobs: bool, as_object: bool) -> None:
    """What `demo` promises. Raises typer.Exit after Ctrl-C."""
    chosen = random.SystemRandom().randrange(2**31) if seed is None else seed
    sheets = balanced(chosen, queries)
    found = asyncio.run(_exercise(state, sheets, concurrency, jobs))
    if found is None:
        raise typer.Exit(INTERRUPTED)
    exercise, queued = found
    figures = compute(exercise, chosen)
    if as_object:
        beside = {} if queued is None else {"jobs": jobs_as_json(queued, exercise.routed_s, figures)}
        print(json.dumps(as_json(figures) | beside))
        return
    console = Console()
    show(figures, console)
    if queued is not None:
        show_jobs(queued, exercise.routed_s, figures, console)


async def _exercise(state: State, sheets: list[Worksheet], concurrency: int, jobs: bool) -> Found | None:
    """What was measured; None after Ctrl-C."""
    console = Console(stderr=True, highlight=False)
    log: deque[str] = deque(maxlen=200)

    def say(name: str, line: str) -> None:
        log.append(f"{name}: {readable(line)}")
        if state.debug:
            console.print(log[-1], markup=False)

    environ = {name: value for name, value in state.environ.items() if not name.startswith(settings.PREFIX)}
    with TemporaryDirectory(prefix="headgate-") as keep:
        # The demo's jobs are kept as a laptop's are, with an AOF, though not in the user's own folder.
        stack = Stack(_config(jobs), environ | {"XDG_STATE_HOME": keep}, say, worker_port=None)
        return await interruptible(_run(stack, sheets, concurrency, console), stack.kill)


def _config(jobs: bool) -> Loaded:
    return settings.read(CONFIG + (JOBS if jobs else ""), None, {})


async def _run(stack: Stack, sheets: list[Worksheet], concurrency: int, console: Console) -> Found:
    async with AsyncExitStack() as held:
        with console.status("starting a Valkey, the workers and a gateway …"):
            await held.enter_async_context(stack)
        client = await held.enter_async_context(AsyncClient(stack.addresses["listen"]))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        progress = held.enter_context(Progress(*columns, console=console, transient=True))
        bar = progress.add_task("answering worksheets", total=len(sheets) * (1 + len(OTHERS) + MODELS))
        exercise = await Exam(client, sheets, concurrency, lambda: progress.advance(bar), OTHERS).take()
        runner = next((child.pid for child in stack.children if child.name == "runner"), None)
        if runner is None:
            return exercise, None
        progress.reset(bar, total=len(sheets), description="queued jobs")

        def step(ended: int, what: str) -> None:
            progress.update(bar, completed=ended, description=what)

        return exercise, await Batch(client, sheets, runner, step).take()
