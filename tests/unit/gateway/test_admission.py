"""Keys become tenants, everything else is turned away, and the room has an end."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.config import OPEN_TENANT, Config
from headgate.adapters.status_map import KeyInvalidError, KeyMissingError, OverloadedError
from headgate.gateway import tickets
from headgate.gateway.admission import Door, Keyring, Room, digest
from headgate.router.types import Objective

PEPPER = b"pepper"
NOW = datetime(2026, 11, 23, tzinfo=UTC).timestamp()


TICKET = tickets.sign(PEPPER, "acme", "job-1", NOW, NOW + 60)


def config(*, open_: bool = False) -> Config:
    def keys(name: str, **extra: str) -> list[dict[str, str]]:
        return [{"id": name, "hmac_sha256": digest(PEPPER, f"secret-{name}").hex(), **extra}]

    tenants = {
        "acme": {"keys": [*keys("k1"), *keys("k2", expires="2026-11-24")]},
        "beta": {"keys": keys("k3"), "models": ["small"], "risk_target": 0.05, "max_risk_target": 0.1},
        "gone": {"keys": keys("k4", expires="2026-11-23")},
    }
    return Config.model_validate(
        {
            "version": 1, "tenants": tenants, "gateway": {"pepper": "env:P", "open": open_},
            "jobs": {"key": keys("runner")[0]},
        }
    )  # fmt: skip


RING = Keyring(config(), PEPPER)


@pytest.mark.parametrize(("identifier", "tenant"), [("k1", "acme"), ("k2", "acme"), ("k3", "beta")])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_names_its_tenant(identifier: str, tenant: str, scheme: str) -> None:
    assert RING.identify(f"{scheme} {identifier}.secret-{identifier}", NOW).tenant == tenant


def test_a_tenant_brings_what_it_may_ask() -> None:
    caller = RING.identify("Bearer k3.secret-k3", NOW)
    assert caller.allowed == {"small"}
    assert caller.objective == Objective(risk_target=0.05)
    assert caller.loosest_risk_target == 0.1


def test_a_key_is_refused_from_its_last_day_on() -> None:
    assert RING.identify("Bearer k2.secret-k2", NOW + 86_399)
    for late in (NOW + 86_400, NOW + 10**9):
        with pytest.raises(KeyInvalidError):
            RING.identify("Bearer k2.secret-k2", late)
    with pytest.raises(KeyInvalidError):
        RING.identify("Bearer k4.secret-k4", NOW)


@pytest.mark.parametrize("nothing", [None, "", b""])
def test_no_key_is_said_to_be_missing(nothing: str | bytes | None) -> None:
    with pytest.raises(KeyMissingError):
        RING.identify(nothing, NOW)


@pytest.mark.parametrize(
    "wrong",
    [
        "Bearer", "Bearer ", "Bearer .", "Bearer k1", "Bearer k1.", "Bearer k1.secret-k3",
        "Bearer k9.secret-k1", "k1.secret-k1",
        "Basic k1.secret-k1", "Bearer k1.secret-k1\x00", "Bearer k1.secret-k1x",
        "Bearer k1.secret-k", "Bearer k1..secret-k1", "Bearer K1.secret-k1", "Bearer ' OR 1=1--",
        "Bearer k1." + "x" * 10_240, b"\xff\xfe\x00", b"Bearer k1.\xff\xfe", "Bearer k1.\udcff",
        "Bearer k1." + digest(PEPPER, "secret-k1").hex(),
    ],
)  # fmt: skip
def test_anything_else_is_invalid(wrong: str | bytes) -> None:
    with pytest.raises(KeyInvalidError) as refused:
        RING.identify(wrong, NOW)
    assert "secret" not in str(refused.value)


@given(st.one_of(st.text(), st.binary()).filter(len))
def test_no_text_gets_in_or_breaks_anything(anything: str | bytes) -> None:
    with pytest.raises((KeyInvalidError, KeyMissingError)):
        RING.identify(anything, NOW)


def test_another_pepper_opens_nothing() -> None:
    with pytest.raises(KeyInvalidError):
        Keyring(config(), b"salt").identify("Bearer k1.secret-k1", NOW)


def test_an_open_gateway_takes_callers_without_a_key_but_no_wrong_key() -> None:
    ring = Keyring(config(open_=True), PEPPER)
    assert ring.identify(None, NOW).tenant == OPEN_TENANT
    assert ring.identify("Bearer k1.secret-k1", NOW).tenant == "acme"
    with pytest.raises(KeyInvalidError):
        ring.identify("Bearer k1.wrong", NOW)


def test_a_runner_is_believed_which_run_of_a_job_it_is_and_what_it_upgrades() -> None:
    caller = RING.identify("Bearer runner.secret-runner", NOW, TICKET, "7", "an upgrade")
    assert caller.run is not None
    assert (caller.tenant, caller.run.ticket.job, caller.run.number) == ("acme", "job-1", 7)
    assert (caller.runs_jobs, caller.upgrades) == (True, "an upgrade")


@pytest.mark.parametrize("run", ["", "0", "-1", "1.5", "07", "1 ", "٣", "x", "9" * 19, "9" * 5000])
def test_what_is_no_number_of_a_run_is_no_run(run: str) -> None:
    caller = RING.identify("Bearer runner.secret-runner", NOW, TICKET, run)
    assert (caller.tenant, caller.run) == ("acme", None)


def test_nobody_but_a_runner_is_believed_to_be_a_run() -> None:
    for caller in (
        RING.identify("Bearer k1.secret-k1", NOW, TICKET, "7", "an upgrade"),
        Keyring(config(open_=True), PEPPER).identify(None, NOW, TICKET, "7", "an upgrade"),
    ):
        assert (caller.runs_jobs, caller.run, caller.upgrades) == (False, None, "")


def test_an_open_gateway_s_runner_needs_no_key_but_a_ticket() -> None:
    open_ticket = tickets.sign(PEPPER, OPEN_TENANT, "job-1", NOW, NOW + 60)
    caller = Keyring(config(open_=True), PEPPER).identify(None, NOW, open_ticket, "7")
    assert caller.run is not None
    assert (caller.tenant, caller.runs_jobs, caller.run.number) == (OPEN_TENANT, True, 7)
    with pytest.raises(KeyMissingError):
        RING.identify(None, NOW, open_ticket, "7")


def test_the_room_has_an_end_and_places_come_back() -> None:
    room = Room(2)
    with room.place(), room.place():
        with pytest.raises(OverloadedError) as shed:
            room.check()
        assert shed.value.retry_after_s
    with pytest.raises(ValueError, match="inside"), room.place():
        raise ValueError("inside")
    assert room.inside == 0


def test_jobs_leave_places_to_those_who_wait_on_the_line() -> None:
    room = Room(20)
    with ExitStack() as inside:
        for _ in range(10):
            inside.enter_context(room.place(job=True))
        with pytest.raises(OverloadedError):
            room.check(job=True)
        for _ in range(10):
            inside.enter_context(room.place())
        with pytest.raises(OverloadedError):
            room.check()
    assert (room.inside, room.of_jobs) == (0, 0)


def test_jobs_have_a_tenth_of_a_busy_gateway() -> None:
    room = Room(20)
    with ExitStack() as inside:
        for _ in range(12):
            inside.enter_context(room.place())
        for _ in range(2):
            inside.enter_context(room.place(job=True))
        with pytest.raises(OverloadedError):
            room.check(job=True)
        room.check()


async def test_a_method_with_a_room_of_its_own_takes_no_place_among_the_others() -> None:
    refused: list[str] = []
    door = Door(
        Keyring(config(open_=True), PEPPER), Room(0), lambda: NOW, lambda method, _: refused.append(method),
        {"/own": Room(1), "/full": Room(0)},
    )  # fmt: skip

    async def entered(_call: object) -> None:
        return None

    for method in ("/own", "/full", "/other"):
        await door.intercept_service(entered, SimpleNamespace(method=method, invocation_metadata=()))
    assert refused == ["/full", "/other"]
