"""`headgate ask`: one question to a running gateway."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from headgate.cli.connect import AddressOption, KeyOption, RootOption, TimeoutOption, connected
from headgate.cli.state import CommandError, State
from headgate.cli.words import as_json, summary
from headgate.client import Answer, AnswerStream
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
    as_object: Annotated[
        bool, typer.Option("--json", help="One JSON object with answer and decision.")
    ] = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Ask a question; the answer streams to stdout, how it was decided goes to stderr.

    [bold]headgate ask "Sort up: 27 20 38 68"[/bold]

    [bold]headgate ask --model large "12 + 30 = ?"[/bold]

    [bold]echo "12 + 30 = ?" | headgate ask --json | jq .decision.model[/bold]
    """
    state: State = context.obj
    text = _question(question)
    options = _options(model, risk_target, max_tokens, temperature)
    with (
        connected(state, address, key, root_certificate, timeout_s) as client,
        client.stream(text, **options) as stream,
    ):
        answer = _collect(stream) if as_object else _print(stream)
    if as_object:
        print(json.dumps(_object(answer)))
    else:
        typer.secho(summary(answer.decision), err=True, dim=True)


def _question(argument: str | None) -> str:
    if argument is None and sys.stdin.isatty():
        raise CommandError('what is the question? For example: headgate ask "Sort up: 27 20 38 68"')
    text = sys.stdin.read() if argument in (None, "-") else argument
    text = (text or "").strip()
    if not text:
        raise CommandError("the question is empty")
    return text


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
    """Prints each piece as it comes; the line is ended even when the stream breaks."""
    try:
        for text in stream.texts():
            print(text, end="", flush=True)
    finally:
        print(flush=True)
    return stream.answer


def _object(answer: Answer) -> dict[str, object]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": asdict(answer.usage),
        "decision": as_json(answer.decision),
    }
