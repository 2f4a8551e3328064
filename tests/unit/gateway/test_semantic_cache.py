"""Candidates: whose they are, when one is served, what a purge leaves. The feed here is one process's own."""

from __future__ import annotations

import hashlib
import random
from importlib import resources

import pytest
from structlog.testing import capture_logs

from headgate.adapters import semantic_events as events
from headgate.adapters.config import Config
from headgate.adapters.ports import SideRoomError
from headgate.adapters.semantic_events import Added, Audited, Begin, Purged
from headgate.adapters.semantic_feed import MOST_TENANTS
from headgate.adapters.semantic_stream import Rebased, Told
from headgate.gateway import answer_cache, semantic_cache
from headgate.gateway.answer_cache import Key
from headgate.gateway.semantic_cache import SemanticCache
from headgate.router.embedding import Embedding
from headgate.router.hits import clean_audits
from headgate.router.types import Decision, Reason
from headgate.v1 import types_pb2

EMBEDDING = Embedding.read(resources.files("headgate.router").joinpath("words.npz").read_bytes())
SCOPE, ROUTE = bytes(32), bytes(16)
ASKED, AGAIN, OTHER = "How do I cancel my order?", "How can I cancel an order?", "How do I pause my order?"
KEYS = [{"id": "k", "hmac_sha256": "0" * 64}]


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


class Loop:
    """Tells what it is told, as the stream would bring it back."""

    def __init__(self) -> None:
        self.heard = self.room = True
        self.away = self.degraded = False
        self.said: list[events.Event] = []

    def start(self, listener) -> None:  # type: ignore[no-untyped-def]
        self.tell = listener

    def hears(self, tenant: str) -> bool:
        return self.heard

    def hearing(self, tenant: str) -> bool:
        return self.heard

    def follows(self, tenant: str) -> bool:
        return self.room

    def say(self, tenant: str, event: events.Event) -> None:
        self.said.append(event)
        told = events.event(events.fields(event))
        assert isinstance(told, Added | Audited | Purged | Begin)
        self.tell(tenant, told)

    async def purge(self, tenant: str, event: Purged) -> None:
        if self.away:
            raise SideRoomError("away")
        self.say(tenant, event)


def config(*, on: bool = True, wanted: bool = True, **semantic: object) -> Config:
    tenants = {
        name: {"keys": [{**KEYS[0], "id": name}], "semantic_cache": wanted} for name in ("acme", "beta")
    }
    return Config.model_validate(
        {
            "version": 1,
            "gateway": {"pepper": "env:P"},
            "cache": {"semantic": {"enabled": on, **semantic}},
            "tenants": tenants,
        }
    )


class Rig:
    """A cache with a clock and a draw of its own."""

    def __init__(self, settings: Config | None = None) -> None:
        self.now, self.drawn = 100.0, 0.5
        self.feed = Loop()
        self.counted: list[str] = []
        self.cache = SemanticCache(
            EMBEDDING,
            self.feed,  # type: ignore[arg-type]
            settings or config(),
            self.counted.append,
            lambda: self.now,
            lambda: self.drawn,
        )
        self.cache.start()

    def keep(self, text: str = ASKED, tenant: str = "acme", number: int = 1, **changes: object) -> None:
        at = {"scope": SCOPE, "route": ROUTE, "model": "small", "expires_at": 1e9, **changes}
        self.cache.keep(key=Key(tenant, digest(number)), text=text, **at)  # type: ignore[arg-type]

    def look(
        self, text: str = AGAIN, tenant: str = "acme", scope: bytes = SCOPE, number: int = 0
    ) -> semantic_cache.Candidate | None:
        return self.cache.look_up(scope, Key(tenant, digest(number)), text)

    def earn(self, similarity: float = 1.0, route: bytes = ROUTE) -> None:
        for number in range(clean_audits(0.01, 0.9)):
            self.feed.say("acme", Audited(route, number.to_bytes(16, "big"), similarity, True))


def test_a_question_in_other_words_is_a_candidate_and_another_question_is_none() -> None:
    rig = Rig()
    rig.keep()
    found = rig.look()
    assert found is not None
    assert str(found.key) == str(Key("acme", digest(1)))
    assert not found.served, "nothing was audited"
    assert rig.look(OTHER) is None
    assert rig.counted == ["near", "none"]


def test_its_own_answer_is_no_candidate_but_the_next_one_is() -> None:
    """Compared with itself a question would certify whatever it says."""
    rig = Rig()
    rig.keep(number=1)
    assert rig.look(ASKED, number=1) is None
    rig.keep(AGAIN, number=2)
    found = rig.look(ASKED, number=1)
    assert found is not None
    assert found.key.digest == digest(2)
    assert rig.counted == ["none", "near"]


def test_another_scope_or_tenant_sees_nothing() -> None:
    rig = Rig()
    rig.keep()
    assert rig.look(scope=bytes(31) + b"x") is None
    assert rig.look(ASKED, "beta") is None, "not even in the same scope"
    assert rig.look(ASKED) is not None


def test_it_is_served_once_the_audits_bound_the_errors() -> None:
    rig = Rig()
    rig.keep()
    for number in range(clean_audits(0.01, 0.9)):
        found = rig.look(ASKED)
        assert found is not None
        assert not found.served, number
        assert rig.cache.audit(found, "42", "42.")
    found = rig.look(ASKED)
    assert found is not None
    assert found.served
    assert found.wrong_hits == 0.01


def test_the_standing_says_what_is_served_and_how_well_that_is_known() -> None:
    rig = Rig()
    unknown = rig.cache.standing("acme")
    assert (unknown.tenant, unknown.heard, unknown.audits, unknown.kinds) == ("acme", True, 0, 0)
    assert not unknown.HasField("similarity")
    assert not unknown.HasField("wrong_at_most")
    assert (unknown.wrong_hits, unknown.confidence) == (0.01, 0.9)
    rig.keep()
    rig.look(ASKED)
    assert rig.cache.standing("acme").wrong_at_most == 1.0, "found, and nothing compared"
    rig.earn(0.97)
    for number in range(300):
        rig.feed.say("acme", Audited(b"another route...", number.to_bytes(16, "big"), 0.9, False))
    rig.keep(OTHER, number=2, route=b"another route...")
    rig.look("How do I pause orders?")
    standing = rig.cache.standing("acme")
    assert (standing.audits, standing.different) == (clean_audits(0.01, 0.9) + 300, 300)
    assert (standing.kinds, standing.serving, standing.similarity) == (2, 1, 0.7)
    assert 0.009 < standing.wrong_at_most <= 0.01, "of what is served, though the other has more audits"
    assert rig.cache.standing("beta").audits == 0
    rig.feed.heard = False
    assert not rig.cache.standing("acme").heard
    rig.feed.tell("acme", Rebased((), (Audited(ROUTE, bytes(16), 0.93, True),)))
    standing = rig.cache.standing("acme")
    assert (standing.audits, standing.different, standing.kinds, standing.serving) == (1, 0, 1, 0)


def test_that_a_route_begins_to_serve_or_ends_is_told_once() -> None:
    rig = Rig(config(audit=1))
    rig.keep()
    rig.look(ASKED)
    with capture_logs() as lines:
        rig.earn()
        rig.earn()
    [begun] = lines
    assert (begun["log_level"], begun["tenant"], begun["route"]) == ("info", "acme", ROUTE.hex())
    assert begun["similarity"] == 0.7
    with capture_logs() as lines:
        for number in range(60):
            rig.feed.say("acme", Audited(ROUTE, number.to_bytes(16, "big"), 1.0, False))
    [ended] = lines
    assert (ended["log_level"], ended["event"]) == ("warning", "answers of like questions are served no more")


def test_a_bound_that_the_audits_do_not_reach_is_told_when_it_is_set() -> None:
    rig = Rig()
    rig.keep()
    rig.earn()
    rig.look(ASKED)
    with capture_logs() as lines:
        rig.cache.configure(config(wrong_hits=0.0001))
        rig.look(ASKED)
        rig.look(ASKED)
    assert [line["log_level"] for line in lines] == ["warning"]


def test_an_error_takes_the_entry_back() -> None:
    rig = Rig()
    rig.keep()
    rig.earn()
    rig.drawn = 0.0
    found = rig.look(ASKED)
    assert found is not None
    assert not found.served
    assert not rig.cache.audit(found, "42", "43")
    rig.drawn = 0.5
    again = rig.look(ASKED)
    assert again is not None
    assert not again.served
    assert rig.counted == ["drawn", "different", "near"]


def test_an_answer_that_is_no_other_s_is_a_difference() -> None:
    rig = Rig()
    rig.keep()
    found = rig.look()
    assert found is not None
    assert not rig.cache.audit(found, "42", None)
    assert not rig.cache.audit(found, "", None)
    assert rig.counted == ["near", "different", "different"]


def test_the_drawn_share_is_the_operators(seed: int) -> None:
    rig = Rig(config(audit=0.25))
    rig.keep()
    rig.earn()
    draw = random.Random(seed)
    served = 0
    for _ in range(4_000):
        rig.drawn = draw.random()
        found = rig.look(ASKED)
        assert found is not None
        served += found.served
    assert abs(served / 4_000 - 0.75) < 0.03


@pytest.mark.parametrize("settings", [config(on=False), config(wanted=False)], ids=["operator", "tenant"])
def test_both_have_to_want_it(settings: Config) -> None:
    rig = Rig(settings)
    rig.keep()
    assert rig.feed.said == []
    assert rig.look(ASKED) is None
    rig.cache.configure(config())
    rig.keep()
    assert rig.look(ASKED) is not None
    rig.cache.configure(settings)
    assert rig.look(ASKED) is None


def test_who_calls_an_open_gateway_wants_what_the_operator_wants() -> None:
    assert semantic_cache.opted_in(Config.model_validate({"version": 1, "gateway": {"open": True}})) == {
        "open"
    }
    assert semantic_cache.opted_in(config()) == {"acme", "beta"}
    assert semantic_cache.opted_in(config(wanted=False)) == set()


def test_silence_has_no_candidates() -> None:
    rig = Rig()
    rig.keep()
    rig.feed.heard = False
    assert rig.look(ASKED) is None
    rig.feed.room = False
    assert rig.look(ASKED) is None
    assert rig.counted == ["silent", "crowded"]


def test_more_tenants_than_are_followed_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    def of(count: int, *, on: bool = True) -> Config:
        tenants = {
            f"t{number}": {"keys": [{**KEYS[0], "id": f"k{number}"}], "semantic_cache": True}
            for number in range(count)
        }
        cache, gateway = {"semantic": {"enabled": on}}, {"pepper": "env:P"}
        return Config.model_validate({"version": 1, "gateway": gateway, "cache": cache, "tenants": tenants})

    rig = Rig(of(MOST_TENANTS))
    assert rig.cache.warnings == []
    rig.cache.configure(of(MOST_TENANTS + 1))
    [sentence] = rig.cache.warnings
    assert sentence.startswith(f"{MOST_TENANTS + 1} tenants have the semantic cache on")
    assert sentence in capsys.readouterr().out
    assert Rig(of(MOST_TENANTS + 1, on=False)).cache.warnings == []


def test_a_stricter_bound_holds_for_the_audits_that_there_are() -> None:
    rig = Rig()
    rig.keep()
    rig.earn()
    found = rig.look(ASKED)
    assert found is not None
    assert found.served
    rig.cache.configure(config(wrong_hits=0.001))
    found = rig.look(ASKED)
    assert found is not None
    assert not found.served
    rig.cache.configure(config(wrong_hits=0.05))
    found = rig.look(ASKED)
    assert found is not None
    assert found.served


def test_an_entry_is_found_for_its_time() -> None:
    rig = Rig(config(ttl_s=60))
    rig.keep()
    rig.now += 59.9
    assert rig.look() is not None
    rig.now += 0.2
    assert rig.look() is None


def test_a_question_is_not_found_for_longer_than_its_answer_is_kept() -> None:
    rig = Rig(config(ttl_s=60))
    rig.keep(expires_at=rig.now + 5)
    rig.now += 4.9
    assert rig.look() is not None
    rig.now += 0.2
    assert rig.look() is None


async def test_a_purge_takes_what_was_made_before_it_also_where_that_comes_later() -> None:
    rig = Rig()
    rig.keep(number=1)
    rig.keep(OTHER, number=2, model="large", tags=("docs",))
    early = rig.feed.said[0]
    assert isinstance(early, Added)
    await rig.cache.purge("acme", model="small")
    assert rig.look() is None
    assert rig.look(OTHER) is not None
    rig.feed.say("acme", early)
    assert rig.look() is None, "made before the purge"
    rig.now += 10
    rig.keep(number=1)
    assert rig.look() is not None
    await rig.cache.purge("acme", tag="docs")
    assert rig.look(OTHER) is None
    await rig.cache.purge("beta")
    assert rig.look() is not None


async def test_a_purge_that_nobody_hears_of_holds_here_and_is_told() -> None:
    rig = Rig()
    rig.keep()
    rig.feed.away = True
    with pytest.raises(SideRoomError):
        await rig.cache.purge("acme")
    assert rig.look() is None


@pytest.mark.parametrize("told", [Begin(), Rebased((digest(1)[:16],), ())], ids=["begin", "cut"])
def test_what_the_stream_forgets_is_forgotten(told: Told) -> None:
    rig = Rig()
    rig.keep()
    rig.keep(OTHER, "beta", 2)
    rig.earn()
    rig.feed.tell("acme", told)
    assert rig.look(ASKED) is None
    assert rig.cache.standing("acme").audits == 0
    assert rig.look(OTHER, "beta") is not None


def test_an_entry_stays_wrong_after_a_cut_took_the_audit_that_says_so() -> None:
    rig = Rig()
    rig.keep()
    right = tuple(Audited(ROUTE, n.to_bytes(16, "big"), 1.0, True) for n in range(clean_audits(0.01, 0.9)))
    for wrong, served in (((), True), ((Audited(ROUTE, digest(1)[:16], 1.0, False),), False)):
        rig.feed.tell("acme", Rebased((), right, wrong))
        found = rig.look(ASKED)
        assert found is not None
        assert found.served == served
        assert rig.cache.standing("acme").serving == 1, "other entries are served"
    rig.feed.tell("acme", Rebased((), right, ()))
    assert (again := rig.look(ASKED)) is not None
    assert again.served


def test_an_answer_that_is_gone_is_no_candidate() -> None:
    rig = Rig()
    rig.keep()
    found = rig.look()
    assert found is not None
    rig.cache.lost(found)
    assert rig.look() is None


def test_a_question_without_known_words_is_not_kept() -> None:
    rig = Rig()
    rig.keep("42")
    assert rig.feed.said == [] or rig.look("43") is None


def query(text: str = ASKED, system: str = "Be brief.", **sampling: object) -> types_pb2.Query:
    said = types_pb2.Message(role=types_pb2.ROLE_SYSTEM, parts=[types_pb2.Part(text=system)])
    asked = types_pb2.Message(role=types_pb2.ROLE_USER, parts=[types_pb2.Part(text=text)])
    return types_pb2.Query(messages=[said, asked], sampling=types_pb2.Sampling(**sampling))  # type: ignore[arg-type]


def test_a_scope_is_all_but_the_question_and_a_route_is_the_messages_before_it() -> None:
    def places(
        one: types_pb2.Query, tenant: str = "acme", model: str = "small", version: str = "v1"
    ) -> tuple[bytes, bytes]:
        rest = semantic_cache.without_question(one)
        decision = Decision(model, Reason.POLICY, "", (), bundle_version="b", policy_version="p")
        key = answer_cache.key(tenant, rest, decision, version)
        return semantic_cache.scope(key, EMBEDDING), semantic_cache.route(rest)

    base = places(query())
    assert [len(one) for one in base] == [32, 16]
    assert places(query(OTHER)) == base
    assert query().messages[1].parts, "the query itself is whole"
    for other, same_route in [
        (places(query(), tenant="beta"), True),
        (places(query(), model="large"), True),
        (places(query(), version="v2"), True),
        (places(query(max_tokens=5)), True),
        (places(query(system="Be long.")), False),
    ]:
        assert other[0] != base[0]
        assert (other[1] == base[1]) == same_route


def test_only_what_a_user_asks_is_a_question() -> None:
    assert semantic_cache.question(query()) == ASKED
    assert semantic_cache.question(query("x" * (semantic_cache.LONGEST + 1))) is None
    assert semantic_cache.question(types_pb2.Query()) is None
    said = query()
    said.messages[-1].role = types_pb2.ROLE_ASSISTANT
    assert semantic_cache.question(said) is None
