"""`headgate ask`: one question to a running gateway."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from headgate.cli.connect import (
    AddressOption,
    KeyOption,
    RequireOption,
    RootOption,
    TimeoutOption,
    connected,
    worded,
)
from headgate.cli.jobs.watch import show
from headgate.cli.state import CommandError, State
from headgate.cli.watch import View
from headgate.cli.words import as_json, summary
from headgate.client import Answer, AnswerStream, Client
from headgate.client.types import Options


def ask(
    context: typer.Context,
    question: Annotated[
        str | None, typer.Argument(help="The question; left out, or -, it is read from stdin.")
    ] = None,
    model: Annotated[str, typer.Option(help="Pin this model instead of routing.")] = "",
    risk_target: Annotated[
        float | None, typer.Option(help="Share of requests that may lose quality.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens; 0: the model's limit.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    require: RequireOption = None,
    cache_tag: Annotated[
        list[str] | None, typer.Option(help="Marks the kept answer, for headgate purge --tag; may repeat.")
    ] = None,
    cache_bypass: Annotated[
        bool, typer.Option("--cache-bypass", help="Neither take a kept answer nor keep this one.")
    ] = False,
    exact_only: Annotated[
        bool, typer.Option("--exact-only", help="No answer to another question that means the same.")
    ] = False,
    upgrade_later: Annotated[
        bool,
        typer.Option(
            "--upgrade-later", help="The cheapest answer at once, a better one as soon as there is."
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show how it comes about: unsure tokens, drafts not accepted."),
    ] = False,
    as_object: Annotated[
        bool, typer.Option("--json", help="One JSON object with answer and decision.")
    ] = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Ask a question; the answer streams to stdout, how it was decided goes to stderr.

    [bold]headgate ask "4711 in words"[/bold]

    [bold]headgate ask --watch "Sort up: 27 20 38 68"[/bold]

    [bold]headgate ask --model large "Sort up: 27 20 38 68"[/bold]

    [bold]headgate ask --upgrade-later "Sort up: 27 20 38 68"[/bold]

    [bold]headgate ask --cache-tag numbers "4711 in words"[/bold]

    [bold]echo "Reverse stressed" | headgate ask --json | jq .decision.model[/bold]
    """
    state: State = context.obj
    if watch and as_object:
        raise CommandError("--watch is for people and --json for programs: give one of them")
    text, view = _question(question), View() if watch else None
    options = _options(model, risk_target, max_tokens, temperature)
    options["required_capabilities"] = require or ()
    options |= Options(cache_tags=cache_tag or (), cache_bypass=cache_bypass, exact_only=exact_only)
    if upgrade_later:
        options["upgrade_later"] = True
    with (
        connected(state, address, key, root_certificate, timeout_s) as client,
        client.stream(text, watch=watch, **options) as stream,
    ):
        answer = view.show(stream) if view else _collect(stream) if as_object else _print(stream)
        _close(answer, view, max_tokens, as_object)
        if upgrade_later and not as_object:
            _await_upgrade(client, answer, told=view is not None)


def _close(answer: Answer, view: View | None, max_tokens: int, as_object: bool) -> None:
    """What is to be said of an answer once it is there."""
    remark = _remark(answer, max_tokens)
    if remark:
        print(remark, file=sys.stderr)
    if view:
        view.close(answer)
    elif as_object:
        print(json.dumps(_object(answer)))
    else:
        typer.secho(summary(answer.decision), err=True, dim=True)


def _await_upgrade(client: Client, answer: Answer, *, told: bool) -> None:
    """Shows the better answer, where one is queued; why it is has perhaps been `told`."""
    offered = answer.escalation_offered
    if offered is None:
        return
    doubt = (
        f"the policy doubts this answer; {offered.model} is expected to do better (gain {offered.gain:.2f})"
    )
    if not offered.job_id:
        raise CommandError(f"{doubt}, but could not be queued: --model {offered.model} asks it")
    if not told:
        queued = f"and is queued; Ctrl-C does not stop it: headgate jobs watch {offered.job_id}"
        typer.secho(f"{doubt} {queued}", err=True, dim=True)
    job = show(client.jobs.watch(offered.job_id))
    if job.answer is None:
        raise typer.Exit(1)
    typer.secho(summary(job.answer.decision), err=True, dim=True)


def _question(argument: str | None) -> str:
    if argument is None and sys.stdin.isatty():
        raise CommandError('what is the question? For example: headgate ask "4711 in words"')
    return worded(sys.stdin.read() if argument is None or argument == "-" else argument)


def _options(model: str, risk_target: float | None, max_tokens: int, temperature: float | None) -> Options:
    options: Options = {"model": model, "max_tokens": max_tokens}
    if risk_target is not None:
        options["risk_target"] = risk_target
    if temperature is not None:
        options["temperature"] = temperature
    return options


def _collect(stream: AnswerStream) -> Answer:
    for _ in stream:
        pass
    return stream.answer


def _print(stream: AnswerStream) -> Answer:
    """Prints each piece as it comes; a line that was begun is ended even when the stream breaks."""
    begun = False
    try:
        for text in filter(None, stream.texts()):
            begun = True
            print(text, end="", flush=True)
    finally:
        if begun:
            print(flush=True)
    return stream.answer


def _remark(answer: Answer, max_tokens: int) -> str:
    """What the answer does not show of itself; empty where it is whole."""
    if answer.finish_reason == "length":
        limit = f"--max-tokens {max_tokens}" if max_tokens else "the model's limit"
        return f"the answer was cut at {limit}"
    return "" if answer.text.strip() else f"the model {answer.decision.model} answered with nothing"


def _object(answer: Answer) -> dict[str, object]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": asdict(answer.usage),
        "decision": as_json(answer.decision),
        "escalation_offered": asdict(answer.escalation_offered) if answer.escalation_offered else None,
    }
