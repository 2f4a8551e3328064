"""Tickets: what lets a job runner act for the tenant of one job, and for nobody else.

    tenant.name.since.expires.signature      POSIX milliseconds and seconds, the signature is HMAC-SHA-256

The gateway signs one when it accepts a job and keeps it in the record; a runner presents it with its own
service key. Neither alone opens anything.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from headgate.adapters.status_map import KeyInvalidError

_PURPOSE: Final = b"headgate job ticket 1"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What one says."""

    tenant: str
    job: str
    since: int
    """POSIX milliseconds. Of two jobs that had one name, one after the other, each has its own; a job that is
    replayed is the same one."""
    until: int
    """POSIX seconds."""


def sign(pepper: bytes, tenant: str, name: str, since: float, expires: float) -> str:
    """The ticket of a job that was accepted at `since`; names of tenants and jobs have dots in them."""
    said = f"{tenant.encode().hex()}.{name.encode().hex()}.{round(since * 1000)}.{round(expires)}"
    return f"{said}.{_signature(pepper, said)}"


def read(pepper: bytes, ticket: str, now: float) -> Ticket:
    """Whom it lets act for, and for which job. KeyInvalidError if it is none of ours, or its time is over."""
    told = _told(pepper, ticket)
    if now >= told.until:
        raise KeyInvalidError("the ticket's time is over")
    return told


def prolonged(pepper: bytes, ticket: str, expires: float) -> str:
    """The same with more time. KeyInvalidError if it is none of ours."""
    told = _told(pepper, ticket)
    return sign(pepper, told.tenant, told.job, told.since / 1000, expires)


def _told(pepper: bytes, ticket: str) -> Ticket:
    said, _, signature = ticket.rpartition(".")
    parts = said.split(".")
    # As bytes: what comes with a call is any text, and only ASCII can be compared as it is.
    genuine = hmac.compare_digest(signature.encode(), _signature(pepper, said).encode())
    if not genuine or len(parts) != 4:
        raise KeyInvalidError("the ticket is none of this gateway's")
    tenant, job = (bytes.fromhex(part).decode() for part in parts[:2])
    return Ticket(tenant, job, int(parts[2]), int(parts[3]))


def _signature(pepper: bytes, said: str) -> str:
    return hmac.digest(hmac.digest(pepper, _PURPOSE, "sha256"), said.encode(), "sha256").hex()
