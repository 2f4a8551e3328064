"""Tickets: what lets a job runner act for the tenant of one job, and for nobody else.

    tenant.name.expires.signature      expires in POSIX seconds, the signature is HMAC-SHA-256

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
    until: int
    """POSIX seconds. Of two jobs that had one name, one after the other, each has its own."""


def sign(pepper: bytes, tenant: str, name: str, expires: float) -> str:
    """The ticket of a job; tenants have dots in their names, and so have jobs."""
    said = f"{tenant.encode().hex()}.{name.encode().hex()}.{round(expires)}"
    return f"{said}.{_signature(pepper, said)}"


def read(pepper: bytes, ticket: str, now: float) -> Ticket:
    """Whom it lets act for, and for which job. KeyInvalidError if it is none of ours, or its time is over."""
    said, _, signature = ticket.rpartition(".")
    parts = said.split(".")
    if not hmac.compare_digest(signature, _signature(pepper, said)) or len(parts) != 3:
        raise KeyInvalidError("the ticket is none of this gateway's")
    told = Ticket(bytes.fromhex(parts[0]).decode(), bytes.fromhex(parts[1]).decode(), int(parts[2]))
    if now >= told.until:
        raise KeyInvalidError("the ticket's time is over")
    return told


def _signature(pepper: bytes, said: str) -> str:
    return hmac.digest(hmac.digest(pepper, _PURPOSE, "sha256"), said.encode(), "sha256").hex()
