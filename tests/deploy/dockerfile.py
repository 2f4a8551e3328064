"""Reads a Dockerfile as Docker would: what each stage is, with all that it has from the stages below it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Stage:
    """One image, finished or not. Commands are None in shell form, which leaves signals to a shell."""

    base: str
    user: str = "root"
    folder: str = "/"
    signal: str = ""
    start: tuple[str, ...] | None = ()
    arguments: tuple[str, ...] | None = ()
    probe: tuple[str, ...] | None = ()
    """Empty where there is none."""
    environ: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()
    """COPY's words, flags included; not those of the stages below."""
    runs: tuple[str, ...] = ()
    """The same of RUN."""


def stages(text: str) -> dict[str, Stage]:
    """By name, in the file's order. A stage starts with what the one has that it is made from."""
    found: dict[str, Stage] = {}
    name = ""
    for word, rest in _instructions(text):
        if word == "FROM":
            base, _, name = re.split(r"\s+(as)\s+", rest, flags=re.IGNORECASE)
            found[name] = replace(found.get(base, Stage(base)), base=base, copies=(), runs=())
        elif name:
            found[name] = _with(found[name], word, rest)
    return found


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n", " ", kept).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


def _with(stage: Stage, word: str, rest: str) -> Stage:
    match word:
        case "USER":
            return replace(stage, user=rest)
        case "WORKDIR":
            return replace(stage, folder=rest)
        case "STOPSIGNAL":
            return replace(stage, signal=rest)
        case "ENTRYPOINT":
            return replace(stage, start=_command(rest))
        case "CMD":
            return replace(stage, arguments=_command(rest))
        case "HEALTHCHECK":
            words = re.sub(r"^(--\S+\s+)*", "", rest)
            return replace(
                stage, probe=() if words == "NONE" else _command(words.removeprefix("CMD").strip())
            )
        case "ENV":
            return replace(stage, environ=stage.environ | _pairs(rest))
        case "LABEL":
            return replace(stage, labels=stage.labels | _pairs(rest))
        case "EXPOSE":
            return replace(stage, ports=(*stage.ports, *rest.split()))
        case "COPY":
            return replace(stage, copies=(*stage.copies, tuple(rest.split())))
        case "RUN":
            return replace(stage, runs=(*stage.runs, rest))
    return stage


def _command(rest: str) -> tuple[str, ...] | None:
    return tuple(json.loads(rest)) if rest.startswith("[") else None


def _pairs(rest: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(rest))
