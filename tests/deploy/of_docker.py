"""docker, as far as a checkout can say whether a command is good: targets, images, services, files, ports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.deploy.commands import Words, World, need, parse_module
from tests.deploy.compose import Compose
from tests.deploy.dockerfile import Stage, stages
from tests.deploy.images import DOCKERFILE, ROLES


def docker(words: Words, world: World) -> None:
    """build, run, exec, compose."""
    words.sub()
    if words.command == "docker compose":
        return compose(words, world)
    if words.command == "docker exec":
        flags = words.flags()
        need(words.word("a container") == "GATEWAY", "which container?")
        return world.run("", "gateway", words.left, _environ(flags))
    flags = words.flags()
    return (_build if words.command == "docker build" else _run)(words, flags, world)


def _build(words: Words, flags: list[tuple[str, str]], world: World) -> None:
    told = dict(flags)
    need(Path(words.word("a folder")).is_dir() and not words.left, "docker build wants one folder")
    need(Path(told.get("--file", "Dockerfile")).is_file(), f"there is no {told.get('--file')}")
    role = told.get("--target", "")
    need(role in ROLES, f"there is no target {role}")
    image = told["--tag"].rpartition("/")[2]
    need(image == f"headgate-{role}:{_version()}", f"{told['--tag']} is not the name of {role}")
    text = DOCKERFILE.read_text()
    arguments = [value.partition("=")[0] for name, value in flags if name == "--build-arg"]
    need(
        all(f"\nARG {one}=" in text for one in arguments), f"the Dockerfile has no such argument: {arguments}"
    )
    world.build(image)


def _run(words: Words, flags: list[tuple[str, str]], world: World) -> None:
    image = words.word("an image")
    need(image in world.built(), f"{image} was not built")
    stage = stages(DOCKERFILE.read_text())[image.removeprefix("headgate-").partition(":")[0]]
    for name, value in flags:
        _check_run_flag(name, value, stage)
    entry = dict(flags).get("--entrypoint")
    if entry is None:
        assert stage.start is not None
        return parse_module(stage.start[2], [*stage.start[3:], *(words.left or stage.arguments or ())])
    need(entry == "headgate", f"{image} has no {entry}")
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-m", "headgate.cli", *words.left], env=paths | _environ(flags), check=False
    )
    return need(ran.returncode == 0, f"headgate {' '.join(words.left)} ended with {ran.returncode}")


def _check_run_flag(name: str, value: str, stage: Stage) -> None:
    port, _, inside = value.partition(":")
    match name:
        case "--publish":
            need(port.isdigit() and inside in stage.ports, f"nobody listens on {inside} inside")
        case "--volume":
            need(f"{inside}".split(":")[0] == stage.environ["HEADGATE_CONFIG"], f"nobody reads {inside}")
        case "--stop-timeout":
            from headgate.adapters.config import GatewayConfig

            least = GatewayConfig().lame_duck_s + GatewayConfig().drain_s + 2
            need(float(value) >= least, f"it needs {least} s to end")
        case "--tmpfs":
            need(value in ("/tmp", "/dev/shm"), f"nobody writes to {value}")
        case "--cap-drop":
            need(value == "ALL", f"there is no capability {value}")


def compose(words: Words, world: World) -> None:
    """build, up, down, kill, exec."""
    flags, told = words.flags(), world.compose()
    profiles = {one for service in told.services.values() for one in service.profiles}
    need({value for _, value in flags} <= profiles, f"there is no such profile: {flags}")
    words.sub()
    more = words.flags()
    if words.command == "docker compose exec":
        name = words.word("a service")
        need(name in told.services, f"there is no service {name}")
        return world.run(name, "", words.left, _environ(more))
    names = words.rest(more)
    scaled = [value.partition("=") for flag, value in more if flag == "--scale"]
    unknown = {*names, *(name for name, _, _ in scaled)} - told.services.keys()
    need(not unknown, f"there is no service {', '.join(sorted(unknown))}")
    need(all(number.isdigit() for _, _, number in scaled), f"what is {scaled}?")
    if words.command == "docker compose build":
        for service in told.services.values():
            if service.target:
                world.build(service.image)
    if words.command == "docker compose up":
        _need_all_for(told, world)
    return None


def _need_all_for(told: Compose, world: World) -> None:
    """What `up` mounts and starts is there."""
    for service in told.services.values():
        need(not service.target or service.image in world.built(), f"{service.image} was not built")
        files = [one.source for one in service.mounts if one.source.startswith("./")]
        for file in [*files, *(told.secrets[one] for one in service.secrets)]:
            need(Path(file).exists(), f"there is no {file}")


def _environ(flags: list[tuple[str, str]]) -> dict[str, str]:
    """What `--env` hands on; a bare name's value is this process's."""
    found = {}
    for name, value in flags:
        if name == "--env":
            key, equal, given = value.partition("=")
            need(equal or os.environ.get(key), f"{key} is not set")
            found[key] = given if equal else os.environ[key]
    return found


def _version() -> str:
    text = Path("pyproject.toml").read_text()
    return text.partition('\nversion = "')[2].partition('"')[0]
