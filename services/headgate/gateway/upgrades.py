"""Answers that are given at once and upgraded later.

    a doubtful answer ─▶ queue: a job of class escalation, whose record says what it upgrades
    the job's answer  ─▶ in the cache it takes the place of the first one, and its record tells of both

The loss of the request was counted on the first answer; what comes later takes nothing of it back.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import structlog

from headgate.adapters.status_map import ServiceError
from headgate.gateway import answer_cache, convert
from headgate.gateway.job_desk import JobDesk
from headgate.gateway.journey import Journey
from headgate.v1 import router_pb2, types_pb2

_LOG = structlog.get_logger(__name__)
WAIT_S: Final = 0.1
"""How long an answer waits for its upgrade to be durable, which takes a millisecond: a Redis that is slow
costs the upgrade, or only the name of its job, and not the answer."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a job upgrades."""

    request_id: str
    model: str
    """Which answered at once."""
    answer: str
    """SHA-256 of its text."""
    digest: str
    """Of the key under which the cache has it; empty where it has not."""

    @classmethod
    def read(cls, told: str) -> Upgrade | None:
        """From a record's word; None where that is none."""
        try:
            found = cls(**json.loads(told))
            bytes.fromhex(found.digest)
        except (TypeError, ValueError):
            return None
        return found

    def __str__(self) -> str:
        return json.dumps(asdict(self))


class Upgrades:
    """One gateway's."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._writing: set[asyncio.Task[str]] = set()

    async def queue(self, journey: Journey, model: str, at: answer_cache.Key | None) -> str:
        """Has the journey's query answered by `model` as well; the job's name, or "" where it is not known
        to be durable."""
        first = Upgrade(
            journey.request_id, journey.model, _digest(journey.text), at.digest.hex() if at else ""
        )
        task = asyncio.create_task(self._submit(journey, model, first))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.wait({task}, timeout=WAIT_S)
        return task.result() if task.done() else ""

    async def _submit(self, journey: Journey, model: str, first: Upgrade) -> str:
        query = types_pb2.Query()
        query.CopyFrom(journey.wire)
        query.model, query.session = model, ""
        query.ClearField("policy_override")
        query.request_id = name_of(journey.request_id)
        tenant = journey.arrival.caller.tenant
        try:
            await self._desk.upgrade(tenant, query, journey.upgrade_within_s, str(first))
        except ServiceError:
            return ""
        except Exception:
            # The answer has been delivered: whatever goes wrong here costs its upgrade only.
            _LOG.exception("an upgrade was not queued", request_id=journey.request_id)
            return ""
        return query.request_id

    async def settle(self) -> None:
        """Waits for what is being written."""
        await asyncio.gather(*self._writing)


def name_of(request_id: str) -> str:
    """Of the job that upgrades the request's answer."""
    name = f"{request_id}.upgrade"
    return name if len(name) <= 128 else hashlib.sha256(name.encode()).hexdigest()


def replaced(
    tenant: str, first: Upgrade, answer: router_pb2.GenerateResponse
) -> tuple[answer_cache.Key, router_pb2.GenerateResponse] | None:
    """The first answer's place in the cache, and the answer as it stands there from now on."""
    if not first.digest:
        return None
    kept = router_pb2.GenerateResponse()
    kept.CopyFrom(answer)
    kept.decision.drafted_by = first.model
    kept.decision.explanation = (
        f"{first.model} answered this at once and in doubt, {answer.decision.model} answered it later."
    )
    return answer_cache.Key(tenant, bytes.fromhex(first.digest)), kept


def facts(first: Upgrade, answer: router_pb2.GenerateResponse) -> Mapping[str, str]:
    """What the record of the later answer tells of the first one."""
    same = _digest([convert.text(answer.message)]) == first.answer
    return {"upgrades": first.request_id, "upgraded_from": first.model, "changed": "no" if same else "yes"}


def _digest(text: list[str]) -> str:
    return hashlib.sha256("".join(text).strip().encode()).hexdigest()
