"""From traffic to tables: a gateway samples, callers and a scorer judge, the command line exports."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.adapters.redis_rooms import SAMPLE_STREAM
from headgate.cli import app
from headgate.client import Answer, Client
from headgate.router.offline import datasets
from tests.integration.gateway_rig import PEPPER, SECRETS, Stack, config, stack, wait_for

QUERIES = 12
Run = Callable[..., tuple[int, str, str]]


def settings(**shadow: Any) -> dict[str, Any]:
    return {**config(), "shadow": {"share": 1, **shadow}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory, settings()) as one:
        yield one


@pytest.fixture
def run(running: Stack, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `headgate outcomes …` with the given shadow settings."""

    def line(*arguments: str, **shadow: Any) -> tuple[int, str, str]:
        path = running.directory / "cli.yaml"
        path.write_text(yaml.safe_dump({**settings(**shadow), "redis": {"url": running.valkey.url}}))
        code = app.run(["--config", str(path), "outcomes", *arguments], {"TEST_PEPPER": PEPPER})
        out, err = capsys.readouterr()
        return code, out, err

    return line


@pytest.fixture
def fresh(running: Stack) -> Stack:
    running.valkey.client.flushall()
    return running


def client(running: Stack, tenant: str = "acme") -> Client:
    return Client(running.addresses["listen"], key=f"{tenant}-1.{SECRETS[tenant]}")


def traffic(running: Stack, count: int = QUERIES) -> list[Answer]:
    """So many answers, each of them sampled."""
    with client(running) as one:
        answers = [one.generate(f"{number} and {uuid.uuid4().hex}") for number in range(count)]
    wait_for(lambda: running.valkey.client.xlen(SAMPLE_STREAM) == count, what="the samples")
    return answers


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scored_traffic_becomes_the_tables_that_training_reads(
    fresh: Stack, run: Run, tmp_path: Path
) -> None:
    traffic(fresh)
    scorer = {"kind": "regex", "pattern": "^large"}
    assert run("export", "--out", str(tmp_path), scorer=scorer)[0] == 1
    code, _, err = run("score", scorer=scorer)
    assert (code, err.splitlines()[-1]) == (
        0,
        f"{QUERIES} samples scored, 0 without a verdict",
    )
    code, _, err = run("export", "--out", str(tmp_path / "labels"), scorer=scorer)
    assert (code, err.splitlines()[0]) == (0, f"{QUERIES} labelled queries in {tmp_path / 'labels'}")
    outcomes = rows(tmp_path / "labels" / "outcomes.csv")
    assert {(one["model"], one["score"], one["propensity"]) for one in outcomes} == {
        ("small", "0.0", "1.0"),
        ("large", "1.0", "1.0"),
    }
    assert len(rows(tmp_path / "labels" / "queries.csv")) == QUERIES
    assert set(datasets.read_prices(tmp_path / "labels" / "prices.csv")) == {"small", "large"}


def test_a_period_can_be_exported(fresh: Stack, run: Run, tmp_path: Path) -> None:
    traffic(fresh, 2)
    run("score", scorer={"kind": "json"})
    assert run("export", "--out", str(tmp_path), "--since", "2020-01-01", "--until", "2100-01-01")[0] == 0
    for period in (("--since", "2100-01-01"), ("--until", "2020-01-01")):
        code, _, err = run("export", "--out", str(tmp_path), *period)
        assert (code, err) == (
            1,
            "headgate: no sample has a quality for every answer: run `headgate outcomes score`\n",
        )


def test_what_is_scored_is_not_scored_again_unless_asked(fresh: Stack, run: Run) -> None:
    traffic(fresh, 2)
    for arguments, scored in ((("--limit", "1"), 1), ((), 1), ((), 0), (("--again",), 2)):
        _, _, err = run("score", *arguments, scorer={"kind": "json"})
        assert err.splitlines()[-1].endswith(f"{scored} samples scored, 0 without a verdict"), arguments


def test_a_user_s_word_is_in_the_tables_instead_of_the_scorer_s(
    fresh: Stack, run: Run, tmp_path: Path
) -> None:
    [answer] = traffic(fresh, 1)
    with client(fresh) as one:
        one.record_outcome(answer.decision.request_id, answer.decision.model, 0.25)
    run("score", scorer={"kind": "json"})
    assert run("export", "--out", str(tmp_path))[0] == 0
    scores = {row["model"]: row["score"] for row in rows(tmp_path / "outcomes.csv")}
    other = ({"small", "large"} - {answer.decision.model}).pop()
    assert scores == {answer.decision.model: "0.25", other: "0.0"}


def test_the_status_is_told_to_people_and_to_programs(fresh: Stack, run: Run) -> None:
    traffic(fresh)
    code, out, _ = run("status")
    assert code == 0
    assert f"samples    {QUERIES}, of them 0 labelled" in out
    told = json.loads(run("status", "--json")[1])
    assert (told["samples"], told["drawn"], told["eligible"]) == (QUERIES, QUERIES, QUERIES)
    assert told["spent_nanousd"]["acme"] > 0
    assert told["missing"] == told["needed"] > 100


def test_a_judge_is_asked_through_the_gateway_and_not_sampled_itself(fresh: Stack, run: Run) -> None:
    """The scripted model repeats the prompt, which is no verdict."""
    traffic(fresh, 1)
    address = ("--address", fresh.addresses["listen"], "--key", f"acme-1.{SECRETS['acme']}")
    code, _, err = run("score", *address, scorer={"kind": "judge", "model": "small"})
    assert (code, err.splitlines()[-1]) == (0, "0 samples scored, 1 without a verdict")

    def pinned() -> list[dict[bytes, bytes]]:
        records = [record for _, record in fresh.valkey.client.xrange("headgate:ledger")]
        return [one for one in records if one.get(b"reason") == b"REASON_PINNED"]

    judgements = wait_for(lambda: len(pinned()) == 2 and pinned(), what="the judge's records")
    assert {one[b"model"] for one in judgements} == {b"small"}
    assert not any(b"drawn" in one for one in judgements)
    assert fresh.valkey.client.xlen(SAMPLE_STREAM) == 1


def test_tenants_are_kept_apart(fresh: Stack, run: Run, tmp_path: Path) -> None:
    traffic(fresh, 1)
    [(_, facts)] = fresh.valkey.client.xrange(SAMPLE_STREAM)
    fresh.valkey.client.xadd(SAMPLE_STREAM, {**facts, b"tenant": b"beta", b"record_id": b"other"})
    code, _, err = run("status")
    assert (code, err) == (1, "headgate: whose samples? Give --tenant, once or more: acme, beta\n")
    told = json.loads(run("status", "--json", "--tenant", "beta")[1])
    assert (told["samples"], told["left_out"]) == (1, {"texts have expired": 1})
    assert run("export", "--out", str(tmp_path), "--tenant", "nobody")[0] == 1


def test_a_tenant_can_be_forgotten(fresh: Stack, run: Run) -> None:
    traffic(fresh, 3)
    assert run("forget", "--tenant", "acme") == (0, "", "the texts of 3 samples are deleted\n")
    assert not list(fresh.valkey.client.scan_iter("headgate:sample:*"))
    assert json.loads(run("status", "--json")[1])["left_out"] == {"texts have expired": 3}
    assert run("forget", "--tenant", "*")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "shadow", "sentence"),
    [
        (("status",), {}, "there are no samples: set shadow.share, and let some requests be answered"),
        (("score",), {}, "who scores? Set shadow.scorer, such as {kind: judge, model: large}"),
        (
            ("status", "--redis-url", "redis://127.0.0.1:1"),
            {},
            "the Redis with the samples cannot be asked: ConnectionError",
        ),
        (
            ("status", "--redis-url", "nowhere"),
            {},
            "redis.url: this is no redis://, rediss:// or unix:// URL",
        ),
    ],
)
def test_what_is_missing_is_one_sentence(
    fresh: Stack, run: Run, arguments: tuple[str, ...], shadow: dict[str, Any], sentence: str
) -> None:
    assert run(*arguments, **shadow) == (1, "", f"headgate: {sentence}\n")


def test_a_private_valkey_has_no_samples_to_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["outcomes", "status"], {}) == 1
    assert capsys.readouterr().err == "headgate: where are the samples? Set redis.url, or give --redis-url\n"
