"""Promise 8 for cascades: whoever is killed while drafts are written or after, each token is said once.

Streams run in a closed loop, a few at a time. When as many were answered as the seed draws, one worker or
both replicas of a model are killed (SIGKILL) and started again, while the streams go on.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import pytest

from headgate.gateway.retry_budget import MOST
from headgate.v1 import router_pb2_grpc
from tests.faults.counting_worker import question
from tests.faults.drafting import MODELS, Drafting, drafting
from tests.faults.figures import Form
from tests.faults.told import Told, broken, failed, follow
from tests.integration.gateway_rig import eventually, metrics, stub

Router = router_pb2_grpc.RouterServiceStub

AT_ONCE = 12
EVERY = 30
"""Answers from one strike to the next, in the mean."""
COME_BACK_S = 0.5
"""A caller that hears that nobody answers waits before it asks again: else it would hear little else."""
DRAWN = {"kept": 5, "doubted": 3, "stopped": 2, "plain": 2, "small": 1, "large": 1}
"""Kinds of questions by weight; those of a model's name are pinned to it."""
BOTH = 0.25
"""Share of strikes that hit both replicas of a model: then a fallback answers, a draft or nobody."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drafting]:
    with drafting(tmp_path_factory.mktemp("drafting")) as one:
        yield one


@dataclass(frozen=True, slots=True)
class Strike:
    """Whom it kills, so long after that many answers."""

    answers: int
    after_s: float
    victims: tuple[str, ...]


def strikes(streams: int, draw: random.Random) -> list[Strike]:
    """All of them, before the first stream begins; when many go unanswered, the last ones do not come."""
    found, answers = [], 0
    while (answers := answers + draw.randrange(EVERY // 2, 3 * EVERY // 2)) < streams:
        model, replicas = draw.choice(MODELS), "ab" if draw.random() < BOTH else draw.choice("ab")
        victims = tuple(f"{model}-{one}" for one in replicas)
        found.append(Strike(answers, draw.uniform(0, 0.05), victims))
    return found


class Streams:
    """Streams that are under way and those that have ended."""

    def __init__(self, running: Drafting, count: int, draw: random.Random) -> None:
        self.told: list[Told] = []
        self.answers = 0
        self._running, self._left, self._draw = running, iter(range(count)), draw

    async def run(self) -> None:
        """Ends when all have ended."""
        async with self._running.channel() as channel:
            await asyncio.gather(*(self._lane(stub(channel)) for _ in range(AT_ONCE)))

    async def _lane(self, router: Router) -> None:
        for _ in self._left:
            [kind] = self._draw.choices(list(DRAWN), list(DRAWN.values()))
            told = await ask(router, kind, self._draw)
            self.told.append(told)
            self.answers += told.code is grpc.StatusCode.OK
            await asyncio.sleep(0 if told.code is grpc.StatusCode.OK else COME_BACK_S)

    def broken(self) -> dict[str, int]:
        """How many break which invariant."""
        records = self._running.records()
        found = (broken(told, records.get(told.question)) for told in self.told)
        return dict(Counter(name for names in found for name in names))


async def test_no_stream_is_cut_silently_or_says_a_token_twice_whoever_is_killed(
    running: Drafting, form: Form
) -> None:
    count, draw = form.count(1_000, 10_000), random.Random(form.seed)
    planned, streams = strikes(count, draw), Streams(running, count, draw)
    under_way = asyncio.ensure_future(streams.run())
    struck = 0
    for strike in planned:
        await eventually(lambda: streams.answers >= strike.answers or under_way.done(), 120)  # noqa: B023
        if under_way.done():
            break
        await asyncio.sleep(strike.after_s)
        await kill(running, strike)
        struck += 1
    await under_way
    names = {told.question for told in streams.told}
    await eventually(lambda: names <= running.records().keys(), what="a record of each")
    judge(form, streams, running, struck)


async def test_a_model_that_is_gone_costs_no_answer_while_another_one_serves(running: Drafting) -> None:
    """Also when more ask for it than a retry budget has second calls: these are first ones."""
    victims, draw = ("small-a", "small-b"), random.Random()
    for victim in victims:
        running.workers[victim].popen.kill()
    try:
        out = 'headgate_worker_serving{model="small"}'
        await eventually(lambda: metrics(running.addresses["metrics"])[out] == 0, what="small to be out")
        async with running.channel() as channel:
            told = [await ask(stub(channel), "kept", draw) for _ in range(2 * int(MOST))]
    finally:
        await back(running, victims)
    assert Counter((one.code, one.model) for one in told) == {(grpc.StatusCode.OK, "large"): len(told)}


async def kill(running: Drafting, strike: Strike) -> None:
    """At once; the next strike waits until they are back: two models gone would try little."""
    for victim in strike.victims:
        running.workers[victim].popen.kill()
    await back(running, strike.victims)


async def back(running: Drafting, victims: Sequence[str]) -> None:
    """Starts replicas of a model again, and waits until it is called again."""
    await asyncio.gather(*(asyncio.to_thread(running.restart_worker, victim) for victim in victims))
    async with running.channel() as channel, asyncio.timeout(60):
        while (
            await ask(stub(channel), victims[0].partition("-")[0], random.Random())
        ).code is not grpc.StatusCode.OK:
            await asyncio.sleep(0.05)


async def ask(router: Router, kind: str, draw: random.Random) -> Told:
    """Asks what nobody has asked before."""
    fields = {"model": kind} if kind in MODELS else {}
    return await follow(router, question("kept" if fields else kind, draw), **fields)


def judge(form: Form, streams: Streams, running: Drafting, struck: int) -> None:
    """Holds every stream against what the models say, and sees that the faults fell where they should."""
    records, found = running.records(), streams.broken()
    ends = Counter(told.code.name if told.code else "?" for told in streams.told)
    drafts = sum(failed(records[told.question], "small") for told in streams.told)
    others = sum(failed(records[told.question], "large") for told in streams.told)
    switched = sum("model_switched" in told.kinds for told in streams.told)
    measured = (
        f"{struck} kills; {dict(ends)}, {switched} switched; in {drafts} a call of small died, "
        f"in {others} one of large; {found or 'none broken'}"
    )
    print(measured)
    form.note(
        "8: workers are killed while they draft and while they take over",
        target="no silent cut, no token lost, doubled, moved or taken back; model, usage and cost agree",
        measured=measured,
        n=len(streams.told),
        met=not found,
    )
    assert not found, found
    assert set(ends) <= {"OK", "UNAVAILABLE"}
    assert min(drafts, others) >= struck / 2, "hardly any call died: the test tried nothing"
