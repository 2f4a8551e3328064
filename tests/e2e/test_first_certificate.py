"""Own traffic: a scripted day of worksheets goes from all large to a certificate that holds.

On the built-in pool, started with no certificate, with labels from shadow sampling and RecordOutcome alone.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.adapters.redis_rooms import LEDGER_STREAM, SAMPLE_STREAM
from headgate.cli.demo.exercise import Exam, Exercise, Marked
from headgate.client import Answer, AsyncClient, Certificate, Client
from headgate.worker.backends.builtin.worksheets import Worksheet, batch, check
from tests.integration.gateway_rig import Valkey, scrubbed, wait_for

# Names of its own: the bundle in the package speaks of `small` and `large`, and would certify them.
SMALL, LARGE = "own-small", "own-large"
RISK_TARGET = 0.10
MORNING = 1000
AT_ONCE = 8
WAVE = 24
"""Worksheets until all samples are awaited: of more than 32 waiting ones the gateway drops some."""
USERS = 5
"""Every so many answers somebody says how good one was."""
GOOD = 0.9
"""What users call a right answer. The scorer says 1, so the labels show whose word won."""
PATIENCE_S, COMMAND_S = 90.0, 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """A running stack of the built-in pair, and the folder that its operator works in."""

    headgate: Any
    valkey: Valkey
    settings: Mapping[str, Any]

    @property
    def home(self) -> Path:
        return Path(self.headgate.home)

    def run(self, *arguments: str) -> str:
        """What a command of the operator's says, on stdout and stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "headgate.cli", *arguments], cwd=self.home, env=scrubbed(),
            capture_output=True, text=True, check=False, timeout=COMMAND_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def configure(self, **changes: Any) -> None:
        """The config file with these changes."""
        (self.home / "headgate.yaml").write_text(yaml.safe_dump({**self.settings, **changes}))

    def samples(self) -> int:
        """How many samples the gateway kept."""
        return int(self.valkey.client.xlen(SAMPLE_STREAM))

    def outcomes(self) -> int:
        """How many outcomes the ledger holds."""
        return sum(record[b"kind"] == b"outcome" for _, record in self.valkey.client.xrange(LEDGER_STREAM))


@pytest.fixture
def valkey(home: Path) -> Iterator[Valkey]:
    one = Valkey(home)
    yield one
    one.stop()


@pytest.fixture
def place(up: Callable[..., Any], config: str, valkey: Valkey) -> Place:
    """Sampling all, without a bundle of its own, and so without a certificate."""
    plain = yaml.safe_load(config)
    settings = {
        **plain,
        # A shadow call begins where half of the slots are free.
        "pool": {f"own-{name}": {**model, "slots": 8} for name, model in plain["pool"].items()},
        "policy": {"risk_target": RISK_TARGET},
        # A cached answer costs nothing, and the test compares costs.
        "cache": {"enabled": False},
        "redis": {"url": valkey.url},
        "shadow": {"share": 1.0, "scorer": {"kind": "exact"}},
        "log_level": "warning",
    }
    return Place(up(yaml.safe_dump(settings)), valkey, settings)


def test_a_day_of_own_traffic_goes_from_all_large_to_a_certificate_that_holds(
    place: Place, seed: int
) -> None:
    morning = batch(seed, MORNING)
    labels = served_by_large_alone(place, morning)
    assert labelled_by_scorer_and_users(place) == labels
    certificate = trained_and_reloaded(place, seed)
    fresh = batch(seed + 1, certificate.window, exclude={sheet.question for sheet in morning})
    afternoon = answered_by_the_policy_and_by_each_model(place, fresh)
    assert_it_saves_by_its_certificate(afternoon, certificate)
    assert_the_certificate_holds(afternoon, certificate)


def served_by_large_alone(place: Place, sheets: Sequence[Worksheet]) -> dict[str, float]:
    """The morning: what is to become the reference's label of each question, by scorer or by user."""
    labels: dict[str, float] = {}
    with Client(place.headgate.address) as client, ThreadPoolExecutor(AT_ONCE) as callers:
        for first in range(0, len(sheets), WAVE):
            wave = range(first, min(first + WAVE, len(sheets)))
            labels |= callers.map(
                lambda number: _asked(client, sheets[number], speaks=not number % USERS), wave
            )
            wait_for(lambda due=wave.stop: place.samples() >= due, PATIENCE_S, "a sample of every request")
    wait_for(lambda: place.outcomes() >= len(sheets) / USERS, PATIENCE_S, "what users said")
    return labels


def _asked(client: Client, sheet: Worksheet, speaks: bool) -> tuple[str, float]:
    """Question and label of one request, whose caller perhaps says how good the answer was."""
    answer = client.generate(sheet.question, temperature=0, metadata={"expected": sheet.answer})
    _assert_uncertified(answer)
    right = check(sheet, answer.text)
    if not speaks:
        return sheet.question, right
    client.record_outcome(answer.decision.request_id, answer.decision.model, GOOD * right)
    return sheet.question, GOOD * right


def _assert_uncertified(answer: Answer) -> None:
    decision = answer.decision
    assert (decision.model, decision.reason, decision.certificate) == (LARGE, "no_certificate", None)
    assert "certificate" in decision.degraded


def labelled_by_scorer_and_users(place: Place) -> dict[str, float]:
    """Noon: scores and exports; the reference's label of every question in the tables."""
    place.run("outcomes", "score")
    status = json.loads(place.run("outcomes", "status", "--json"))
    assert (status["labelled"], status["missing"], status["left_out"]) == (MORNING, 0, {})
    place.run("outcomes", "export", "--out", "labels")
    questions = {row["query_id"]: row["query"] for row in _rows(place.home / "labels" / "queries.csv")}
    scores: dict[str, dict[str, float]] = {SMALL: {}, LARGE: {}}
    for row in _rows(place.home / "labels" / "outcomes.csv"):
        scores[row["model"]][questions[row["query_id"]]] = float(row["score"])
    assert scores[SMALL].keys() == scores[LARGE].keys()
    assert set(scores[SMALL].values()) == {0.0, 1.0}, "nobody but the scorer has seen these answers"
    assert set(scores[LARGE].values()) == {0.0, GOOD, 1.0}
    return scores[LARGE]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def trained_and_reloaded(place: Place, seed: int) -> Certificate:
    """Still noon: a bundle from these labels and nothing else; the certificate that is in force then."""
    said = place.run(
        *("train", "--outcomes", "labels", "--reference", LARGE, "--risk-target", str(RISK_TARGET)),
        *("--difficulty", "none", "--seed", str(seed), "--out", "own.bundle"),
    )
    assert re.search("certified on .*, at most 10 % of 300 requests", said), said
    place.configure(
        policy={"bundle": "own.bundle", "risk_target": RISK_TARGET},
        shadow={**place.settings["shadow"], "share": 0.02},
    )
    admin = place.headgate.says(r"admin (\S+),")[1]
    assert re.search(r"bundle (?!none)\S+", place.run("reload", "--admin", admin))
    with Client(place.headgate.address) as client:
        certificate = client.route("12 + 30 = ?").certificate
    assert certificate is not None
    assert (certificate.reference_model, certificate.risk_target) == (LARGE, RISK_TARGET)
    assert certificate.n == pytest.approx(0.3 * MORNING, abs=0.05 * MORNING), (
        "the part that training left alone"
    )
    return certificate


def answered_by_the_policy_and_by_each_model(place: Place, sheets: Sequence[Worksheet]) -> Exercise:
    """The afternoon: fresh worksheets, and what each model by itself would have made of them."""

    async def exercise() -> Exercise:
        async with AsyncClient(place.headgate.address) as client:
            return await Exam(client, sheets, AT_ONCE, lambda: None).take()

    taken = asyncio.run(exercise())
    assert taken.failures == {}
    return taken


def assert_it_saves_by_its_certificate(afternoon: Exercise, certificate: Certificate) -> None:
    decisions = [mark.decision for mark in afternoon.routed if mark.decision]
    covered = [one for one in decisions if one.certificate == certificate]
    assert len(covered) >= 0.95 * len(decisions)
    assert {one.reason for one in covered} == {"policy"}
    assert all(one.certificate == certificate for one in decisions if one.model == SMALL)
    assert sum(one.model == SMALL for one in decisions) >= 0.15 * len(decisions)
    assert _cost(afternoon.routed) <= 0.9 * _cost(afternoon.pinned[LARGE])


def assert_the_certificate_holds(afternoon: Exercise, certificate: Certificate) -> None:
    large = afternoon.pinned[LARGE]
    assert _regret(afternoon.routed, large) <= certificate.risk_target
    assert _regret(afternoon.pinned[SMALL], large) > certificate.risk_target, "a policy that ignores it"


def _regret(got: Sequence[Marked], reference: Sequence[Marked]) -> float:
    """The share of answers that are wrong where the reference's is right."""
    lost = sum(one.quality < best.quality for one, best in zip(got, reference, strict=True))
    return lost / len(got)


def _cost(marks: Sequence[Marked]) -> int:
    return sum(mark.cost_nanousd for mark in marks)
