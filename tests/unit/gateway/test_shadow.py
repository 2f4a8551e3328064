"""Shadow sampling over real gRPC: what is drawn, what is kept, and every reason why a sample is dropped."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headgate.adapters import samples
from headgate.adapters.config import ModelConfig, PriceConfig, ShadowConfig
from headgate.adapters.memory import MemoryBudget, MemoryLedger, MemoryStore
from headgate.adapters.ports import SideRoomError
from headgate.adapters.samples import Sample
from headgate.adapters.telemetry import Metrics
from headgate.gateway import shadow
from headgate.gateway.admission import Caller
from headgate.gateway.records import Recorder
from headgate.gateway.shadow import Answered, Places, Shadow, draw_key, drawn
from headgate.gateway.worker_channel import HEALTH_SERVICE
from headgate.gateway.workers import Worker, Workers
from headgate.router.types import Decision, Reason
from headgate.v1 import types_pb2, worker_pb2, worker_pb2_grpc
from tests.integration.gateway_rig import eventually

NAMES = ("small", "large")
PRICE = PriceConfig(input_nanousd=1_000_000, output_nanousd=2_000_000)
"""One nano-dollar a token read, two a token written."""
CALL_COST = 10 * 1 + 5 * 2
EVERYTHING = ShadowConfig(share=1)


class Servant(worker_pb2_grpc.WorkerServiceServicer):
    """A worker that says its name, or what the test tells it."""

    def __init__(self, name: str, slots: int) -> None:
        self.name, self.slots = name, slots
        self.asked: list[worker_pb2.WorkerServiceGenerateRequest] = []
        self.says = [name]
        self.fails = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.left_alone = asyncio.Event()

    async def DescribeModel(self, _request: object, _context: object) -> worker_pb2.DescribeModelResponse:  # type: ignore[override]
        return worker_pb2.DescribeModelResponse(
            model=self.name, version="v1", slots=self.slots, capabilities=["german"]
        )

    async def Generate(  # type: ignore[override]
        self, request: worker_pb2.WorkerServiceGenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        self.asked.append(request)
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.left_alone.set()
            raise
        for text in self.says:
            await context.write(worker_pb2.WorkerServiceGenerateResponse(text=text))
        if self.fails:
            await context.abort(grpc.StatusCode.INTERNAL, "as told")
        usage = types_pb2.Usage(prompt_tokens=10, completion_tokens=5)
        stop = types_pb2.FINISH_REASON_STOP
        await context.write(worker_pb2.WorkerServiceGenerateResponse(finish_reason=stop, usage=usage))


@dataclass(frozen=True, slots=True)
class House:
    """Two workers, and places in memory."""

    servants: Mapping[str, Servant]
    workers: Workers
    metrics: Metrics
    store: MemoryStore
    ledger: MemoryLedger
    budget: MemoryBudget
    places: Places

    def shadow(self, settings: ShadowConfig = EVERYTHING, places: Places | None = None) -> Shadow:
        return Shadow(settings, draw_key(b""), self.workers, places or self.places, self.metrics)

    def results(self) -> dict[str, int]:
        return _samples(self.metrics.shadow_samples, "result")

    def calls(self) -> dict[str, int]:
        return _samples(self.metrics.shadow_calls, "code")

    async def dropped(self, why: str) -> None:
        await eventually(lambda: self.results().get(why), what=f"a sample to be {why}")
        assert self.results() == {why: 1}
        assert not self.ledger.records

    async def kept(self) -> Sample:
        await eventually(lambda: self.ledger.records, what="a sample")
        bare = samples.read(self.ledger.records[-1])
        assert bare is not None
        return samples.with_texts(bare, await self.store.get(samples.key(bare.tenant, bare.record_id)))

    def taken(self) -> int:
        return self.budget._taken.total()


def _samples(counter: Any, label: str) -> dict[str, int]:
    [family] = counter.collect()
    found: Counter[str] = Counter()
    for one in family.samples:
        if one.name.endswith("_total") and one.value:
            found[one.labels[label]] += int(one.value)
    return dict(found)


@pytest.fixture
def slots() -> int:
    return 8


@pytest.fixture
async def house(slots: int) -> AsyncIterator[House]:
    async def changed(_worker: Worker) -> None: ...

    servants = {name: Servant(name, slots) for name in NAMES}
    served = {name: await _serve(servant) for name, servant in servants.items()}
    addresses = {name: address for name, (_, address) in served.items()}
    workers = Workers({name: ModelConfig(price=PRICE) for name in NAMES}, addresses, None, changed)
    for worker in workers:
        while not worker.serving:
            await worker.probe()
    store, ledger, budget = MemoryStore(), MemoryLedger(), MemoryBudget()
    recorder = Recorder(ledger, pytest.fail)
    recorder.start()
    yield House(servants, workers, Metrics(), store, ledger, budget, Places(store, budget, recorder))
    await recorder.close()
    await workers.close()
    for server, _ in served.values():
        await server.stop(None)


async def _serve(servant: Servant) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(servant, server)
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    await state.set(HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


def record(record_id: str = "r1", tenant: str = "acme") -> Mapping[str, str]:
    return {"record_id": record_id, "tenant": tenant, "request_id": "q1", "at": "12.500",
            "bundle_version": "b", "policy_version": "p"}  # fmt: skip


def answered(
    model: str = "small", *, reason: Reason = Reason.POLICY, said: Sequence[str] = ("an ", "answer"),
    allowed: frozenset[str] | None = None, chosen: str = "", text: str = "why?",
    earlier: Sequence[types_pb2.Message] = (), required: Sequence[str] = (), **sampling: Any,
) -> Answered:  # fmt: skip
    turn = types_pb2.Message(role=types_pb2.ROLE_USER, parts=[types_pb2.Part(text=text)])
    wire = types_pb2.Query(
        messages=[*earlier, turn], sampling=types_pb2.Sampling(**sampling), metadata={"expected": "because"},
        required_capabilities=required,
    )  # fmt: skip
    usage = types_pb2.Usage(prompt_tokens=3, completion_tokens=4)
    decision = Decision(chosen or model, reason, "", ())
    return Answered(Caller("acme", allowed), wire, decision, model, said, usage, "large")


def test_the_draw_is_the_same_every_time_and_as_frequent_as_its_share() -> None:
    key, ids = draw_key(b"pepper"), [f"{number:032x}" for number in range(20_000)]
    hits = {one for one in ids if drawn(key, one, 0.1)}
    assert hits == {one for one in ids if drawn(key, one, 0.1)}
    assert 1_800 < len(hits) < 2_200
    assert hits < {one for one in ids if drawn(key, one, 0.2)}, "a larger share adds and takes nothing away"
    assert hits != {one for one in ids if drawn(draw_key(b"other"), one, 0.1)}
    assert all(drawn(key, one, 1.0) for one in ids)
    assert not any(drawn(key, one, 0.0) for one in ids)


async def test_a_sample_has_every_answer_with_its_propensity(house: House) -> None:
    noted = house.shadow(ShadowConfig(share=1, keep_text_days=2)).offer(record(), answered(top_p=0.5))
    assert (noted["share"], noted["drawn"]) == ("1.0", "1")
    sample = await house.kept()
    assert (sample.record_id, sample.request_id, sample.tenant, sample.at) == ("r1", "q1", "acme", 12.5)
    assert (sample.delivered, sample.reference, sample.share) == ("small", "large", 1.0)
    assert (sample.query, sample.labels) == ("why?", {"expected": "because"})
    assert (sample.settings.top_p, sample.settings.turns) == (0.5, 1)
    small, large = sample.answers
    assert (small.model, small.text, small.propensity, small.cost_nanousd) == ("small", "an answer", 1.0, 11)
    assert (large.model, large.text, large.cost_nanousd) == ("large", "large", CALL_COST)
    assert (small.prompt_tokens, large.completion_tokens, large.version) == (3, 5, "v1")
    assert house.results() == {"kept": 1}
    assert house.calls() == {"OK": 1}
    [call] = house.servants["large"].asked
    assert (call.sampling.top_p, call.request_id) == (0.5, "shadow-r1")
    assert not house.servants["small"].asked


@pytest.mark.parametrize(("required", "others"), [("german", {"large"}), ("vision", set())])
async def test_only_a_model_that_can_do_what_the_query_requires_is_sampled(
    house: House, required: str, others: set[str]
) -> None:
    noted = house.shadow(ShadowConfig(share=1)).offer(record(), answered(required=[required]))
    assert ("drawn" in noted) is bool(others)
    if others:
        assert {answer.model for answer in (await house.kept()).answers} == {"small"} | others


async def test_the_other_answer_s_propensity_is_the_share(house: House) -> None:
    share, one = 0.5, next(f"{n}" for n in range(99) if drawn(draw_key(b""), f"{n}", 0.5))
    house.shadow(ShadowConfig(share=share)).offer(record(one), answered())
    assert [answer.propensity for answer in (await house.kept()).answers] == [1.0, share]


async def test_who_is_not_drawn_is_noted_and_left_alone(house: House) -> None:
    hit, miss = (
        next(f"{n}" for n in range(99) if drawn(draw_key(b""), f"{n}", 0.5) is wanted)
        for wanted in (True, False)
    )
    one = house.shadow(ShadowConfig(share=0.5))
    noted = one.offer(record(miss), answered())
    assert (noted["share"], noted["drawn"]) == ("0.5", "0")
    one.offer(record(hit), answered())
    assert (await house.kept()).record_id == hit
    assert [call.request_id for call in house.servants["large"].asked] == [f"shadow-{hit}"]


@pytest.mark.parametrize(("cache", "eligible"), [("HIT", True), ("SEMANTIC_HIT", False)])
async def test_an_answer_to_another_question_is_no_sample_and_an_earlier_one_to_this_is(
    house: House, cache: str, eligible: bool
) -> None:
    noted = house.shadow().offer({**record(), "cache": f"CACHE_STATUS_{cache}"}, answered())
    assert ("drawn" in noted) is eligible
    if eligible:
        assert (await house.kept()).answers[0].text == "an answer"


@pytest.mark.parametrize(
    "request_",
    [
        answered(reason=Reason.PINNED),
        answered(reason=Reason.BRAIN_FAILED),
        answered("large", chosen="small"),
        answered(allowed=frozenset(["small"])),
        answered(text="x" * (shadow.MOST_BYTES + 1)),
        answered(temperature=0.1),
        answered(stop=["."]),
        answered(earlier=[types_pb2.Message(role=types_pb2.ROLE_SYSTEM)]),
    ],
    ids=[
        "pinned",
        "the brain failed",
        "a fallback",
        "no other model allowed",
        "longer than what is kept",
        "not greedy",
        "stop strings",
        "a system prompt",
    ],
)
async def test_what_no_certificate_speaks_of_is_not_drawn(house: House, request_: Answered) -> None:
    asked = record()
    assert house.shadow().offer(asked, request_) is asked
    assert not house.results()


async def test_nothing_is_drawn_at_share_0_without_places_or_after_the_stop(house: House) -> None:
    off = house.shadow(ShadowConfig())
    homeless = Shadow(EVERYTHING, b"k", house.workers, None, house.metrics)
    stopped = house.shadow()
    stopped.stop()
    for one in (off, homeless, stopped):
        assert not one.on
        assert one.offer(record(), answered()) == record()


async def test_only_the_models_of_the_setting_are_run(house: House) -> None:
    one = house.shadow(ShadowConfig(share=1, models=("large",)))
    assert "drawn" not in one.offer(record(), answered("large"))
    assert one.offer(record(), answered("small"))["drawn"] == "1"
    await house.kept()


async def test_money_is_reserved_before_the_call_and_settled_after_it(house: House) -> None:
    large = house.servants["large"]
    large.goes_on.clear()
    house.shadow().offer(record(), answered(max_tokens=100))
    await eventually(lambda: large.asked, what="the call")
    assert house.taken() == 2 * 1 + 100 * 2, "twice the estimated prompt, and the longest answer"
    large.goes_on.set()
    await house.kept()
    assert house.taken() == CALL_COST
    [left] = house.metrics.budgets_left.collect()
    assert [(one.value, one.labels["budget"]) for one in left.samples] == [
        (ShadowConfig().budget_nanousd - CALL_COST, "samples")
    ]
    [cost] = house.metrics.shadow_cost.collect()
    assert {s.labels["model"]: s.value for s in cost.samples if s.name.endswith("_total")} == {
        "large": CALL_COST
    }


async def test_a_call_that_the_budget_may_not_cover_is_not_made(house: House) -> None:
    house.shadow(ShadowConfig(share=1, budget_usd_per_day=200e-9)).offer(record(), answered(max_tokens=100))
    await house.dropped("budget")
    assert not house.servants["large"].asked
    assert house.taken() == 0


async def test_a_model_that_fails_drops_the_sample_and_moves_no_breaker(house: House) -> None:
    house.servants["large"].fails = True
    for number in range(6):
        house.shadow().offer(record(str(number)), answered())
    await eventually(lambda: house.results().get("failed") == 6, what="all to fail")
    assert house.calls() == {"INTERNAL": 6}
    assert not house.workers["large"].breaker.open
    text_cost = 6 * (1 * 1 + 2 * 2)
    assert house.taken() == text_cost, "what was seen of each answer is charged"


async def test_an_answer_without_end_is_cut(house: House) -> None:
    house.servants["large"].says = ["x" * 1000] * 40
    house.shadow().offer(record(), answered())
    await house.dropped("too_long")
    house.servants["large"].says = ["short"]


async def test_a_delivered_answer_that_is_too_long_is_not_kept(house: House) -> None:
    house.shadow().offer(record(), answered(said=["x" * (shadow.MOST_BYTES + 1)]))
    await house.dropped("too_long")


async def test_a_hanging_model_fills_the_queue_and_holds_up_nobody(house: House) -> None:
    large = house.servants["large"]
    large.goes_on.clear()
    one = house.shadow()
    for number in range(shadow.MOST_WAITING + 3):
        one.offer(record(str(number)), answered())
    await eventually(lambda: len(large.asked) == shadow.AT_ONCE, what="calls")
    assert house.results() == {"full": 3}
    await one.close()
    assert house.results() == {"full": 3, "drained": shadow.MOST_WAITING}
    await large.left_alone.wait()
    large.goes_on.set()


async def test_a_call_ends_at_its_deadline(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "CALL_S", 0.1)
    house.servants["large"].goes_on.clear()
    house.shadow().offer(record(), answered())
    await house.dropped("failed")
    assert house.calls() == {"DEADLINE_EXCEEDED": 1}
    house.servants["large"].goes_on.set()


async def test_a_sample_that_waits_too_long_is_late(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "LIFE_S", 0.1)
    house.workers["large"].serving = False
    house.shadow().offer(record(), answered())
    await house.dropped("late")


async def test_a_shadow_call_waits_while_answers_hold_half_of_the_slots(house: House, slots: int) -> None:
    large = house.workers["large"]
    answers = [
        large.channel.generate(worker_pb2.WorkerServiceGenerateRequest(), 30) for _ in range(slots // 2)
    ]
    large.calls.update(answers)
    assert not large.idle
    one = house.shadow()
    one.offer(record(), answered())
    large.calls.clear()
    await house.kept()
    for call in answers:
        call.cancel()


@pytest.mark.parametrize("slots", [1])
async def test_a_shadow_call_yields_its_slot_to_an_answer(house: House) -> None:
    large = house.servants["large"]
    large.goes_on.clear()
    house.shadow().offer(record(), answered())
    await eventually(lambda: large.asked, what="the shadow call")
    house.workers["large"].make_room()
    await large.left_alone.wait()
    await house.dropped("yielded")
    assert house.taken() == 0
    large.goes_on.set()


async def test_with_room_for_both_no_shadow_call_yields(house: House) -> None:
    large = house.servants["large"]
    large.goes_on.clear()
    house.shadow().offer(record(), answered())
    await eventually(lambda: large.asked, what="the shadow call")
    house.workers["large"].make_room()
    large.goes_on.set()
    await house.kept()


class Away:
    """A budget and a store that cannot be asked."""

    async def reserve(self, account: str, amount: int, most: int) -> bool:
        raise SideRoomError("gone")

    async def give_back(self, account: str, amount: int) -> int:
        raise SideRoomError("gone")

    async def taken(self, account: str) -> int:
        raise SideRoomError("gone")

    async def get(self, key: str) -> bytes | None:
        raise SideRoomError("gone")

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        raise SideRoomError("gone")


async def test_without_a_budget_to_ask_no_money_is_spent(house: House) -> None:
    house.shadow(places=Places(house.store, Away(), house.places.facts)).offer(record(), answered())
    await house.dropped("unavailable")
    assert not house.servants["large"].asked


async def test_texts_that_cannot_be_kept_leave_no_facts(house: House) -> None:
    house.shadow(places=Places(Away(), house.budget, house.places.facts)).offer(record(), answered())
    await house.dropped("unavailable")


async def test_closing_does_not_wait_for_money_that_cannot_be_settled(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "CLOSE_S", 0.05)
    frozen = asyncio.Event()

    class Frozen(MemoryBudget):
        async def give_back(self, account: str, amount: int) -> int:
            await frozen.wait()
            return 0

    large = house.servants["large"]
    large.goes_on.clear()
    one = house.shadow(places=Places(house.store, Frozen(), house.places.facts))
    one.offer(record(), answered())
    await eventually(lambda: large.asked, what="the call")
    async with asyncio.timeout(5):
        await one.close()
    frozen.set()
    large.goes_on.set()
    await eventually(lambda: house.results().get("drained"), what="its end")


async def test_whatever_goes_wrong_with_a_draw_the_record_is_written(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ValueError("nobody foresaw this")

    monkeypatch.setattr(shadow, "drawn", broken)
    assert house.shadow().offer(record(), answered()) == record()


async def test_settings_can_change_while_it_runs(house: House) -> None:
    one = house.shadow(ShadowConfig())
    one.settings = EVERYTHING
    one.offer(record(), answered())
    await house.kept()


async def test_logs_and_labels_hold_nothing_of_a_query(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = "canary-7d1f"
    house.servants["large"].fails = True
    house.servants["large"].says = [canary]
    house.shadow().offer(record(), answered(text=canary, said=[canary]))
    await house.dropped("failed")
    written = "".join(capfd.readouterr())
    assert canary not in written
    assert canary not in json.dumps(
        [list(m.labels.items()) for f in house.metrics.registry.collect() for m in f.samples]
    )
