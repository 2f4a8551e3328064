"""The words of commands for docker, kubectl and kind, and the world that they are held to.

What a command would run in a container of ours really runs in it, where `running.json` says how to enter
it; elsewhere the program's own parser reads it, and nothing runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.compose import Compose, read

ANY = "…"
"""Stands for flags that the reader knows."""
FLAGS: dict[str, tuple[str, str]] = {
    "docker build": ("", "--file --target --tag --build-arg"),
    "docker run": (
        "--read-only --rm",
        "--tmpfs --cap-drop --security-opt --stop-timeout --volume --publish --env --entrypoint --network "
        "--pull",
    ),
    "docker exec": ("", "--env"),
    "docker compose": ("", "--profile"),
    "docker compose build": ("", ""),
    "docker compose up": ("--detach --wait --no-deps --force-recreate", "--scale"),
    "docker compose down": ("--volumes", ""),
    "docker compose kill": ("", "--signal"),
    "docker compose exec": ("", "--env"),
    "kind create": ("", ""),
    "kind load": ("", ""),
    "kubectl": ("", "-n"),
    "kubectl apply": ("", "-k"),
    "kubectl rollout": ("", ""),
    "kubectl exec": ("", ""),
    "kubectl get": ("", "-l -o"),
    "kubectl label": ("", ""),
    "kubectl create": ("", "--from-file"),
}
"""Those that our pages use, of those that the programs have: without a value, and with one."""


class FaultError(Exception):
    """What is wrong with a command."""


def need(true: object, otherwise: str) -> None:
    """Raises FaultError."""
    if not true:
        raise FaultError(otherwise)


@dataclass
class Words:
    """A command's, taken from the left."""

    left: list[str]
    command: str

    def flags(self) -> list[tuple[str, str]]:
        """Those that come next, up to the first word that is none."""
        alone, valued = (one.split() for one in FLAGS[self.command])
        found = []
        while self.left and (self.left[0] == ANY or (self.left[0][0] == "-" and self.left[0] != "--")):
            name, equal, value = self.left.pop(0).partition("=")
            if name in valued:
                need(equal or self.left, f"{name} wants a value")
                found.append((name, value if equal else self.left.pop(0)))
            else:
                need(name == ANY or (name in alone and not equal), f"{self.command} has no flag {name}")
                found.append((name, ""))
        return found

    def word(self, what: str) -> str:
        """The next one."""
        need(self.left, f"{self.command}: {what} is missing")
        return self.left.pop(0)

    def rest(self, flags: list[tuple[str, str]]) -> list[str]:
        """All words; flags among them go to `flags`."""
        found = []
        while self.left:
            found.append(self.left.pop(0))
            flags += self.flags()
        return found

    def sub(self) -> None:
        """The next word is a subcommand."""
        name = f"{self.command} {self.word('a subcommand')}"
        need(name in FLAGS, f"there is no {name}")
        self.command = name


class World:
    """What there is: the checkout, what was built from it, and what runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, dict[str, Any]] = json.loads((folder / "running.json").read_text())

    def built(self) -> set[str]:
        """Images."""
        kept = self.folder / "images"
        return set(kept.read_text().split()) if kept.exists() else set()

    def build(self, image: str) -> None:
        """Keeps that one was."""
        with (self.folder / "images").open("a") as kept:
            kept.write(f"{image}\n")

    def compose(self) -> Compose:
        """The file in this folder."""
        return read(Path("docker-compose.yml").read_text())

    def run(self, name: str, component: str, words: Sequence[str], environ: dict[str, str]) -> None:
        """In a container of a component, in any of them where `name` is empty."""
        need(words, "what shall run in the container?")
        there = [
            one
            for key, one in self.running.items()
            if key == name or (not name and one["component"] == component)
        ]
        if not there:
            parse(words)
            return
        run = subprocess.run(
            [*there[0]["enter"], *words],
            env=there[0]["environ"] | environ,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        need(run.returncode == 0, f"inside it ended with {run.returncode}")


def parse(words: Sequence[str]) -> None:
    """Has the program's own parser read a command of ours, and shells and tools be."""
    words = list(words)
    if words[0] == "env":
        words = [one for one in words[1:] if "=" not in one or one.startswith("-")]
    if words[0] in ("sh", "ollama"):
        return
    if words[0] == "headgate":
        _parse_cli(words[1:])
    else:
        need(words[:2] == ["python", "-m"], f"nobody knows {words[0]} in our images")
        parse_module(words[2], words[3:])


def _parse_cli(words: list[str]) -> None:
    import typer

    from headgate.adapters import unreported  # noqa: F401
    from headgate.cli.app import app
    from headgate.cli.state import State

    command: Any = typer.main.get_command(app)
    context = None
    try:
        while True:
            context = command.make_context(command.name, words, parent=context, obj=State({}))
            if not hasattr(command, "resolve_command"):
                return
            _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    except Exception as error:
        raise FaultError(f"headgate: {getattr(error, 'message', error)}") from error


def parse_module(name: str, words: Sequence[str]) -> None:
    """The same for `python -m name`, up to where it has read its arguments."""
    need(importlib.util.find_spec(name), f"there is no module {name}")
    real = argparse.ArgumentParser.parse_args

    def only(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        real(self, args, namespace)
        raise SystemExit(0)

    argparse.ArgumentParser.parse_args = only  # type: ignore[method-assign, assignment]
    sys.argv = [name, *words]
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as ended:
        need(ended.code == 0, f"{name} does not take {' '.join(words)}")
    finally:
        argparse.ArgumentParser.parse_args = real  # type: ignore[method-assign]
