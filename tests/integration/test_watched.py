"""A watched stream through the real gateway: log-probabilities, and drafts that were not accepted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from headgate.v1 import router_pb2, types_pb2
from tests.integration.gateway_rig import Stack, config, stack, streamed, stub
from tests.integration.test_drafts import ACME, RIGHT, WRONG, Stub, bundle, kinds

Told = list[router_pb2.StreamGenerateResponse]
LOGPROB = -0.01
"""What the scripted worker tells of each chunk."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    where = bundle(tmp_path_factory.mktemp("bundle"))
    with stack(tmp_path_factory, {**config(), "policy": {"bundle": str(where)}}) as one:
        yield one


@pytest.fixture
async def router(running: Stack) -> AsyncIterator[Stub]:
    async with running.channel() as channel:
        yield stub(channel)


async def events(router: Stub, text: str | dict[str, object], *, watch: bool, **fields: object) -> Told:
    request = streamed(text, **fields)
    request.watch = watch
    return [event async for event in router.StreamGenerate(request, metadata=ACME)]


def deltas(told: Told) -> list[router_pb2.Delta]:
    return [event.delta for event in told if event.WhichOneof("event") == "delta"]


def joined(pieces: list[router_pb2.Delta]) -> str:
    return "".join(piece.text for piece in pieces)


def asked_for_logprobs(running: Stack, request_id: str) -> list[bool]:
    return [line["logprobs"] for line in running.journal(request_id) if line["event"] == "begun"]


async def test_log_probabilities_are_asked_for_and_told_only_when_watched(
    running: Stack, router: Stub
) -> None:
    # Two scripts: the second answer must not come from the cache.
    watched = await events(router, {"say": ["a", "b"]}, watch=True, model="large", request_id="seen-1")
    plain = await events(router, {"say": ["c", "d"]}, watch=False, model="large", request_id="unseen-1")
    assert [list(piece.logprobs) for piece in deltas(watched)] == [[LOGPROB], [LOGPROB]]
    assert not any(piece.logprobs for piece in deltas(plain))
    assert asked_for_logprobs(running, "seen-1") == [True]
    assert asked_for_logprobs(running, "unseen-1") == [False]


async def test_an_accepted_draft_comes_in_the_pieces_in_which_it_was_written(router: Stub) -> None:
    told = await events(router, f"{RIGHT}, watched", watch=True)
    assert kinds(told) == ["decision", "delta", "delta", "finished"]
    assert [piece.text for piece in deltas(told)] == ["small: ", f"{RIGHT}, watched"]
    assert [list(piece.logprobs) for piece in deltas(told)] == [[LOGPROB], [LOGPROB]]


async def test_who_does_not_watch_gets_an_accepted_draft_whole_and_bare(router: Stub) -> None:
    told = await events(router, f"{RIGHT}, unwatched", watch=False)
    assert kinds(told) == ["decision", "delta", "finished"]
    assert not deltas(told)[0].logprobs


async def test_a_draft_that_was_not_accepted_is_shown_to_who_watches_and_told_apart(router: Stub) -> None:
    told = await events(router, f"{WRONG}, watched", watch=True)
    switched = told[1].model_switched
    assert joined(list(switched.draft)) == f"small: {WRONG}, watched"
    assert [list(piece.logprobs) for piece in switched.draft] == [[LOGPROB], [LOGPROB]]
    assert switched.explanation == told[-1].finished.decision.explanation
    assert joined(deltas(told)) == f"large: {WRONG}, watched"
    assert all(piece.logprobs for piece in deltas(told))


async def test_who_does_not_watch_gets_the_reason_of_a_switch_and_nothing_of_the_draft(
    running: Stack, router: Stub
) -> None:
    told = await events(router, f"{WRONG}, unwatched", watch=False, request_id="unseen-2")
    switched = told[1].model_switched
    assert not switched.draft
    assert switched.explanation == told[-1].finished.decision.explanation
    assert "The draft of small" in switched.explanation
    assert not any(piece.logprobs for piece in deltas(told))
    # Of the draft, whose reader wants them, and not of the answer.
    assert asked_for_logprobs(running, "unseen-2") == [True, False]


async def test_a_stopped_draft_is_shown_as_far_as_it_was_written(router: Stub) -> None:
    told = await events(router, "tell me word by word whether 2 + 2 = 5, watched", watch=True)
    switched = told[1].model_switched
    assert "was stopped after" in switched.explanation
    begun = joined(list(switched.draft))
    assert begun.startswith("small: tell me word by word ")
    assert len(begun) < len(joined(deltas(told))) / 10


async def test_a_fallback_says_that_the_model_failed_and_shows_no_half_of_a_draft(router: Stub) -> None:
    script: dict[str, object] = {"say": ["half"], "fail": "UNAVAILABLE", "only": "small"}
    told = await events(router, script, watch=True)
    switched = told[1].model_switched
    assert (switched.from_model, switched.to_model, switched.escalation) == ("small", "large", False)
    assert switched.explanation == "The worker of model small cannot be reached or failed, so large answers."
    assert not switched.draft


async def test_an_answer_from_the_cache_has_its_reason_and_no_log_probabilities(router: Stub) -> None:
    text = f"{WRONG}, kept"
    first = await events(router, text, watch=True)
    again = first
    for _ in range(100):
        again = await events(router, text, watch=True)
        if again[-1].finished.decision.cache_status == types_pb2.CACHE_STATUS_HIT:
            break
    assert again[-1].finished.decision.cache_status == types_pb2.CACHE_STATUS_HIT
    assert kinds(again) == ["decision", "model_switched", "delta", "finished"]
    assert again[1].model_switched.explanation == first[1].model_switched.explanation
    assert not again[1].model_switched.draft
    assert joined(deltas(again)) == joined(deltas(first))
    assert not any(piece.logprobs for piece in deltas(again))
