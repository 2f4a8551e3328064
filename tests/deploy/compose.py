"""Reads a compose file as Compose would: variables put in, merges made, each service in one plain shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:[-+])(?P<word>[^}]*))?\})")
_UNITS = {"s": 1, "m": 60, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of the checkout, or a volume by its name."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Port:
    """Published on this machine."""

    host: str
    published: int
    target: int


@dataclass(frozen=True, slots=True)
class Service:
    """What an engine is told of one."""

    name: str
    image: str
    built: str
    """The Dockerfile's target that it builds; empty where another service does, or the image is not ours."""
    profiles: tuple[str, ...]
    command: tuple[str, ...] | None
    environment: dict[str, str]
    user: str
    """Empty: the image's."""
    read_only: bool
    drops: tuple[str, ...]
    options: tuple[str, ...]
    mounts: tuple[Mount, ...]
    tmpfs: tuple[str, ...]
    """Places in memory that may be written to."""
    secrets: tuple[str, ...]
    ports: tuple[Port, ...]
    networks: dict[str, tuple[str, ...]]
    """By name, with the other names that it has there."""
    needs: dict[str, str]
    """Services that come before it, and what of them is waited for."""
    probe: tuple[str, ...]
    """Empty where there is none."""
    stop_s: float
    limits: dict[str, str]

    @property
    def target(self) -> str:
        """Of the Dockerfile; empty where the image is not ours."""
        ours = re.match(r"headgate-([a-z-]+):", self.image)
        return ours[1] if ours else ""

    def bytes(self) -> int:
        """The most memory it may take."""
        return _sized(self.limits["memory"])


@dataclass(frozen=True, slots=True)
class Compose:
    """The file, read."""

    services: dict[str, Service]
    networks: dict[str, bool]
    """By name: whether it leads nowhere else."""
    volumes: tuple[str, ...]
    secrets: dict[str, str]
    """Their files, from the checkout's root."""


def read(text: str, environ: Mapping[str, str] | None = None) -> Compose:
    """What it says where the variables are `environ`'s."""
    told = _filled(yaml.safe_load(text), environ or {})
    return Compose(
        {name: _service(name, one) for name, one in told["services"].items()},
        {name: bool((one or {}).get("internal")) for name, one in told["networks"].items()},
        tuple(told["volumes"]),
        {name: one["file"] for name, one in told["secrets"].items()},
    )


def _filled(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, environ) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, environ) for one in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        if found["name"] is None:
            return "$"
        given = environ.get(found["name"], "")
        if found["how"] == ":+":
            return found["word"] if given else ""
        return given or found["word"] or ""

    return _VARIABLE.sub(put, value)


def _service(name: str, told: Mapping[str, Any]) -> Service:
    networks = told.get("networks", {})
    if isinstance(networks, list):
        networks = dict.fromkeys(networks)
    test = told.get("healthcheck", {}).get("test", ["NONE"])
    command = told.get("command")
    return Service(
        name, told["image"], told.get("build", {}).get("target", ""),
        tuple(told.get("profiles", ())),
        tuple(command) if command is not None else None,
        {key: str(value) for key, value in told.get("environment", {}).items()},
        str(told.get("user", "")), bool(told.get("read_only")),
        tuple(told.get("cap_drop", ())), tuple(told.get("security_opt", ())),
        tuple(_mount(one) for one in told.get("volumes", ())),
        tuple(one.partition(":")[0] for one in told.get("tmpfs", ())),
        tuple(told.get("secrets", ())), tuple(_port(one) for one in told.get("ports", ())),
        {one: tuple((more or {}).get("aliases", ())) for one, more in networks.items()},
        {one: more["condition"] for one, more in told.get("depends_on", {}).items()},
        tuple(test[1:]) if test[0] == "CMD" else (),
        _sized(told.get("stop_grace_period", "10s")),
        {key: str(value) for key, value in _limits(told).items()},
    )  # fmt: skip


def _limits(told: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = told.get("deploy", {}).get("resources", {}).get("limits", {})
    return found


def _mount(told: str | Mapping[str, Any]) -> Mount:
    if isinstance(told, str):
        source, target = told.split(":")
        return Mount(source, target, read_only=False)
    return Mount(told["source"], told["target"], bool(told.get("read_only")))


def _port(told: str) -> Port:
    host, published, target = told.split(":")
    return Port(host, int(published), int(target))


def _sized(told: str) -> int:
    """`25s` in seconds, `512M` in bytes."""
    return int(told[:-1]) * _UNITS[told[-1]]
