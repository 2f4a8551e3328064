"""Who calls, and is there room: both are asked before a request's body is read.

Keys are `id.secret` in `authorization: Bearer …`. The config holds HMAC-SHA-256(pepper, secret) only. Without
a key nothing but the health service answers, unknown methods included, unless the gateway is open.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from headgate.adapters import status_map
from headgate.adapters.config import OPEN_TENANT, CascadeConfig, Config, TenantConfig
from headgate.adapters.status_map import KeyInvalidError, KeyMissingError, OverloadedError, ServiceError
from headgate.gateway import tickets
from headgate.gateway.tickets import Ticket
from headgate.router.types import Objective

SHED_RETRY_S: Final = 0.5
TICKET_KEY: Final = "headgate-ticket"
RUN_KEY: Final = "headgate-run"
"""Which run of its job a runner's call is; nobody else is believed. An open gateway without a pepper cannot
tell who signed a ticket: it believes whoever reaches it, as in all else."""
UPGRADES_KEY: Final = "headgate-upgrades"
"""What its job upgrades."""
_RUN: Final = re.compile("[1-9][0-9]{0,17}")
_SCHEME: Final = "bearer "
_HEALTH: Final = "/grpc.health.v1.Health/"

# Text, because gRPC's classes take parameters only in its stubs.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class Run:
    """A job runner's call."""

    ticket: Ticket
    number: int
    """Of the job's runs: from 1, and a later run has a higher one."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant behind a call, and what it may ask."""

    tenant: str
    allowed: frozenset[str] | None = None
    """Models that it may use; None means all."""
    objective: Objective | None = None
    """Its own; None means the gateway's."""
    loosest_risk_target: float | None = None
    """The largest risk target that its queries may ask; None means any."""
    cascade: CascadeConfig | None = None
    """What becomes of drafts; None means as the gateway says."""
    runs_jobs: bool = False
    """A job runner. It acts for others by their jobs' tickets, and for nobody without."""
    run: Run | None = None
    """Of the job whose ticket a runner presents."""
    upgrades: str = ""
    """What that job upgrades, in its record's words; empty where nothing."""


CALLER: Final[ContextVar[Caller]] = ContextVar("headgate_caller")
"""Set for the time of one call."""


@dataclass(frozen=True, slots=True)
class _Key:
    caller: Caller
    digest: bytes
    expires: float


class Keyring:
    """Turns credentials into callers."""

    def __init__(self, config: Config, pepper: bytes) -> None:
        self._pepper = pepper
        self._open = config.gateway.open
        self._tenants = {name: _caller(name, tenant, config) for name, tenant in config.tenants.items()}
        if self._open:
            self._tenants[OPEN_TENANT] = Caller(OPEN_TENANT)
        self._keys = {
            key.id: _Key(_caller(name, tenant, config), bytes.fromhex(key.hmac_sha256), _instant(key.expires))
            for name, tenant in config.tenants.items()
            for key in tenant.keys
        }
        if config.jobs.key is not None:
            own, runner = config.jobs.key, Caller("", runs_jobs=True)
            self._keys[own.id] = _Key(runner, bytes.fromhex(own.hmac_sha256), _instant(own.expires))

    def identify(
        self,
        authorization: str | bytes | None,
        now: float,
        ticket: str = "",
        run: str = "",
        upgrades: str = "",
    ) -> Caller:
        """The caller with these credentials; of a job runner the tenant whose job's ticket it presents.

        Raises KeyMissingError or KeyInvalidError, never saying why.
        """
        if self._open and (authorization is None or not self._keys):
            return self._opened(ticket, run, upgrades, now)
        if not authorization:
            raise KeyMissingError("send a key in call metadata: authorization: Bearer <id>.<secret>")
        key = self._matching(authorization)
        if key is None or now >= key.expires:
            raise KeyInvalidError("the key is unknown, wrong or expired")
        return self._acting(ticket, run, upgrades, now) if key.caller.runs_jobs else key.caller

    def _opened(self, ticket: str, run: str, upgrades: str, now: float) -> Caller:
        """Runners need no key either. A ticket for somebody who has keys opens nothing without one."""
        if ticket and tickets.read(self._pepper, ticket, now).tenant == OPEN_TENANT:
            return self._acting(ticket, run, upgrades, now)
        return self._tenants[OPEN_TENANT]

    def _acting(self, ticket: str, run: str, upgrades: str, now: float) -> Caller:
        told = tickets.read(self._pepper, ticket, now)
        if told.tenant not in self._tenants:
            raise KeyInvalidError("the job's tenant is no longer one")
        caller = replace(self._tenants[told.tenant], runs_jobs=True, upgrades=upgrades)
        return replace(caller, run=Run(told, int(run))) if _RUN.fullmatch(run) else caller

    def _matching(self, authorization: str | bytes) -> _Key | None:
        text = _text(authorization)
        if text[: len(_SCHEME)].lower() != _SCHEME:
            return None
        identifier, _, secret = text[len(_SCHEME) :].strip().partition(".")
        key = self._keys.get(identifier)
        # An unknown id costs the same comparison as a wrong secret.
        matches = hmac.compare_digest(digest(self._pepper, secret), key.digest if key else bytes(32))
        return key if matches else None


def digest(pepper: bytes, secret: str) -> bytes:
    """What the config keeps of a secret: HMAC-SHA-256(pepper, secret)."""
    return hmac.digest(pepper, secret.encode("utf-8", "surrogateescape"), "sha256")


class Room:
    """Counts requests inside; over `most` the next one is shed.

    Those of jobs, which can wait, have a tenth of the places. They may have more while half of all are free.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0
        self.of_jobs = 0

    def check(self, *, job: bool = False) -> None:
        """Raises OverloadedError when there is no room."""
        if self.inside >= self.most or (job and not self._lets_job_in()):
            raise OverloadedError("the gateway is full", retry_after_s=SHED_RETRY_S)

    def _lets_job_in(self) -> bool:
        return self.of_jobs < max(1, self.most // 10) or self.inside < self.most // 2

    @contextmanager
    def place(self, *, job: bool = False) -> Iterator[None]:
        """Takes a place for the time of a `with` block. Raises OverloadedError."""
        self.check(job=job)
        self.inside += 1
        self.of_jobs += job
        try:
            yield
        finally:
            self.inside -= 1
            self.of_jobs -= job


class Door(grpc.aio.ServerInterceptor):
    """Stands before every method of the public port; only health is open to all."""

    def __init__(
        self,
        keys: Keyring,
        room: Room,
        now: Callable[[], float],
        refused: Callable[[str, ServiceError], None],
        rooms: Mapping[str, Room] | None = None,
    ) -> None:
        """`refused` is told method and error of every call that is turned away.

        `rooms`: those of methods that have one of their own.
        """
        self.keys = keys
        self._room = room
        self._rooms = rooms or {}
        self._now = now
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The method's handler for a caller that may enter, else one that refuses and reads no body."""
        method = handler_call_details.method
        if method.startswith(_HEALTH):
            return await continuation(handler_call_details)
        try:
            caller = self._caller(handler_call_details)
            CALLER.set(caller)
            self._rooms.get(method, self._room).check(job=caller.runs_jobs)
        except ServiceError as error:
            self._refused(method, error)
            return _refusal(error)
        return await continuation(handler_call_details)

    def _caller(self, details: grpc.HandlerCallDetails) -> Caller:
        # Of several values of a name the last one counts.
        told = dict(details.invocation_metadata or ())
        said = [_text(told.get(name, "")) for name in (TICKET_KEY, RUN_KEY, UPGRADES_KEY)]
        return self.keys.identify(told.get("authorization"), self._now(), *said)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _refusal(error: ServiceError) -> Handler:
    async def refuse(_requests: object, context: Context) -> None:
        await status_map.abort(context, error)

    # A streaming handler starts before any message is read; a refusal looks the same for every kind.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _caller(name: str, tenant: TenantConfig, config: Config) -> Caller:
    own = tenant.risk_target
    return Caller(
        tenant=name,
        allowed=frozenset(tenant.models) if tenant.models is not None else None,
        objective=Objective(risk_target=own) if own is not None else None,
        loosest_risk_target=tenant.max_risk_target or own or config.policy.risk_target,
        cascade=tenant.cascade,
    )


def _instant(expires: str | None) -> float:
    if expires is None:
        return float("inf")
    return datetime.fromisoformat(expires).replace(tzinfo=UTC).timestamp()
