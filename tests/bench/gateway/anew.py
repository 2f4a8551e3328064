"""A gateway that decides every call anew: `python -m tests.bench.gateway.anew …`, with the gateway's own flags.

A load generator asks one question all the time, and the gateway remembers its decision; callers ask many.
"""

from __future__ import annotations

import os
import sys

from headgate.adapters import diagnosis, unreported  # noqa: F401
from headgate.gateway import process
from headgate.router.bundle import Bundle
from headgate.router.decide import decide
from headgate.router.decided import Decided
from headgate.router.types import Decision, Pool, Query


def _anew(_self: Decided, bundle: Bundle | None, query: Query, pool: Pool, *, now: float) -> Decision:
    return decide(bundle, query, pool, now=now)


if __name__ == "__main__":
    Decided.decide = _anew  # type: ignore[method-assign]
    diagnosis.prepare()
    sys.exit(process.main(sys.argv[1:], os.environ))
