"""The command line of runner and reconciler: what is wrong is one sentence, what is right is explained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from headgate.jobs import process
from tests.integration.gateway_rig import Valkey

ON = {"HEADGATE_JOBS__ENABLED": "true", "HEADGATE_REDIS__URL": "redis://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        (["runner"], {}, "jobs.enabled: jobs are switched off; set it to true for gateway and runners"),
        (["reconciler"], {"HEADGATE_JOBS__ENABLED": "true"}, "redis.url: say where the records of jobs live"),
        (["runner", "--gateway", "nowhere"], ON,
         "--gateway: 'nowhere' must be host:port, such as 127.0.0.1:7070"),
        (["runner", "--root-certificate", "/no/such.pem"], ON,
         "--root-certificate: /no/such.pem cannot be read: No such file or directory"),
        (["runner"], ON | {"HEADGATE_JOBS__RUNNER_KEY": "env:NO_KEY"},
         "the environment variable NO_KEY is not set, or is empty"),
        (["reconciler"], ON | {"HEADGATE_JOBS__BROKER": "env:BROKER", "BROKER": "sqs://u:s3cret@b"},
         "jobs.broker: the secret it refers to is no redis://, rediss://, unix://, amqp:// or amqps:// URL; "
         "write special characters of a password percent-encoded"),
    ],
)  # fmt: skip
def test_what_cannot_start_says_why_in_one_sentence(
    arguments: list[str],
    environ: Mapping[str, str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert process.main(arguments, environ) == 1
    assert capsys.readouterr().err == f"headgate jobs {arguments[0]}: {sentence}\n"


def test_a_reconciler_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls no gateway: where secrets are handed out one by one, it gets none."""
    monkeypatch.chdir(tmp_path)
    flags = process._parser().parse_args(["reconciler"])
    environ = ON | {"HEADGATE_JOBS__RUNNER_KEY": "env:NO_KEY"}
    assert process._resolved(process._config(flags, environ), flags, environ).key == ""


@pytest.mark.parametrize(("program", "word"), [("runner", "SIGTERM"), ("reconciler", "got lost")])
def test_help_says_what_it_is_for(program: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        process.main([program, "--help"], {})
    assert ended.value.code == 0
    assert word in capsys.readouterr().out


def test_without_celery_it_is_one_sentence() -> None:
    program = """
import runpy, sys
sys.modules["celery"] = None
runpy.run_module("headgate.jobs", run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == 'headgate jobs: celery is not installed; pip install "headgate[server,jobs]"\n'


@pytest.mark.parametrize("program", ["runner", "reconciler"])
def test_on_a_redis_that_may_evict_jobs_neither_starts(
    program: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evicting = Valkey(tmp_path)
    evicting.client.config_set("maxmemory-policy", "allkeys-lru")
    assert process.main([program], ON | {"HEADGATE_REDIS__URL": evicting.url}) == 1
    evicting.stop()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"headgate jobs {program}: redis.url: this Redis may evict records of jobs")
