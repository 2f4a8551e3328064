"""An answer cache whose answers say whom they are for: naming workers, and tenants that may share nothing."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headgate.gateway.admission import digest
from headgate.v1 import router_pb2, types_pb2
from tests.faults.naming_worker import SUBJECT, call_of, told
from tests.integration.gateway_rig import PEPPER, Process, Stack, config, generate, streamed, text_of
from tests.integration.many_gateways import Stub

SEMANTIC: dict[str, Any] = {
    "enabled": True,
    "wrong_hits": 0.2,
    "confidence": 0.8,
    "audit": 0.01,
    "answer": SUBJECT,
}
"""So loose that a dozen audits allow hits."""
MISS, HIT, LIKE, AWAY = (
    types_pb2.CACHE_STATUS_MISS,
    types_pb2.CACHE_STATUS_HIT,
    types_pb2.CACHE_STATUS_SEMANTIC_HIT,
    types_pb2.CACHE_STATUS_UNAVAILABLE,
)


class NamingStack(Stack):
    """A Stack of naming workers."""

    def __init__(self, directory: Path, tenants: Sequence[str], like: Sequence[str] = (), **cache: object):
        """`like` are tenants that want answers of like questions as well; `cache` changes its settings."""
        made = config()
        # As in production: a line for each request takes a third of an answer's time.
        made["log_level"] = "info"
        made["tenants"] = {name: _tenant(name, name in like) for name in tenants}
        made["cache"] |= {**({"semantic": SEMANTIC} if like else {}), **cache}
        super().__init__(directory, made)

    def start_worker(self, name: str, port: int = 0) -> Process:
        """A naming worker."""
        where = [str(self.journal_file), str(port), str(self.directory / f"{name}.ready")]
        command = [sys.executable, "-m", "tests.faults.naming_worker", name, *where]
        return Process(command, self.directory, name, {})


def _tenant(name: str, like: bool) -> dict[str, Any]:
    secret = digest(PEPPER.encode(), name).hex()
    return {"keys": [{"id": f"{name}-1", "hmac_sha256": secret}], "semantic_cache": like}


def key_of(tenant: str) -> tuple[tuple[str, str], ...]:
    """The call metadata of a tenant of a naming stack."""
    return (("authorization", f"Bearer {tenant}-1.{tenant}"),)


class WrongError(AssertionError):
    """An answer that is not its request's."""


class AstrayError(AssertionError):
    """An answer to a question that is not like its request's."""


async def ask(
    router: Stub, tenant: str, text: str, label: str = "", within_s: float = 30, **fields: Any
) -> router_pb2.GenerateResponse:
    """The answer, whole and the tenant's own. Its request's id begins with tenant and label."""
    request = generate(text, request_id=_named(tenant, label), **fields)
    answer = await router.Generate(request, metadata=key_of(tenant), timeout=within_s)
    check(tenant, text, text_of(answer), answer.decision)
    return answer


async def ask_for_a_stream(router: Stub, tenant: str, text: str, **fields: Any) -> types_pb2.Decision:
    """As `ask`; the decision as it stood at the end."""
    request = streamed(text, request_id=_named(tenant, ""), **fields)
    events = [event async for event in router.StreamGenerate(request, metadata=key_of(tenant), timeout=30)]
    decision = events[-1].finished.decision
    check(tenant, text, "".join(event.delta.text for event in events), decision)
    return decision


def check(tenant: str, text: str, answer: str, decision: types_pb2.Decision) -> None:
    """Raises WrongError unless the answer is the tenant's, and to this question; AstrayError where it is to
    another one that was taken for a like one, which may happen within a bound."""
    whose, place, zone = told(answer)
    said = f"{tenant} asked {text!r} and got {answer!r}"
    if whose != tenant:
        raise WrongError(said)
    if f"in {place} in {zone} today" not in text:
        raise AstrayError(said) if decision.cache_status == LIKE else WrongError(said)


def call(answer: router_pb2.GenerateResponse) -> int:
    """The call that brought the answer, in whatever request."""
    return call_of(text_of(answer))


def away(answers: Sequence[router_pb2.GenerateResponse]) -> int:
    """How many say that Redis did not reply in time, so that their process asked for itself."""
    return sum(types_pb2.DEGRADATION_CACHE in answer.decision.degraded for answer in answers)


def _named(tenant: str, label: str) -> str:
    return f"{tenant}.{label}.{uuid.uuid4().hex}"


def unique() -> str:
    """A zone that nobody has asked for."""
    return f"Zone{uuid.uuid4().hex[:8]}"
