"""What is wrong with the settings is one sentence, and it holds nothing of a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.gateway.process import main

CANARY = "s3c-canary"
OPEN = "version: 1\ngateway: {open: true}\npool: {small: {worker: '127.0.0.1:1'}}\n"
NO_URLS = (
    f"redis://:{CANARY}/ret@127.0.0.1:6379",
    f"{CANARY}@127.0.0.1:6379",
    f"redis://127.0.0.1:6379?{CANARY}=1",
    f"redis://[{CANARY}",
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "headgate.yaml"
    path.write_text(OPEN)
    return path


@pytest.mark.parametrize("url", NO_URLS)
def test_a_secret_that_is_no_redis_url_stays_secret(
    config: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(config), "--redis-url", "env:REDIS_URL"]
    assert main(arguments, {"REDIS_URL": url}) == 1
    said = capsys.readouterr().err
    assert said.startswith("headgate gateway: redis.url: the secret it refers to is no redis://, rediss:// ")
    assert len(said.splitlines()) == 1
    assert CANARY not in said


def test_a_redis_url_in_the_file_that_cannot_be_read_is_not_quoted_either(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "--redis-url", NO_URLS[0]], {}) == 1
    said = capsys.readouterr().err
    assert said.startswith("headgate gateway: redis.url: this is no redis://")
    assert CANARY not in said
