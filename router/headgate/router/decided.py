"""Decisions that were made already: the same query gets the same one, and the bundle is not asked again.

`decide` is a function of bundle, query, pool and time; this remembers its results and never changes one. Time
counts in two ways, and where either could matter nothing is remembered: a deadline so near that it may rule a
model out, and a certificate that expires.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace

from headgate.router.bundle import Bundle
from headgate.router.decide import decide
from headgate.router.types import Decision, Model, Pool, Query, Reason

MOST = 2_000
"""Decisions of some 2 KB, each with its query's text of 8 KB at most."""
_MOST_IN_TURN = 3
"""Models that one request may wait for, one after the other: two drafts and the reference."""


@dataclass(frozen=True, slots=True)
class _Made:
    decision: Decision
    at: float
    until: float
    """When the first of the certificates expires that were valid then."""


class Decided:
    """The last decisions of one bundle and pool, up to `most`; the one unused for longest goes first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._made: OrderedDict[tuple[Bundle, Query], _Made] = OrderedDict()
        self._contents: object = None
        self._pool: Pool | None = None
        self._models: tuple[Model, ...] = ()

    def decide(self, bundle: Bundle | None, query: Query, pool: Pool, *, now: float) -> Decision:
        """What `headgate.router.decide.decide` returns or raises; failures are not remembered."""
        if bundle is None or not _has_time(query, pool):
            return decide(bundle, query, pool, now=now)
        self._forget_others(bundle, pool)
        at = bundle, replace(query, seconds_left=math.inf)
        made = self._made.get(at)
        if made is not None and made.at <= now < made.until:
            self._made.move_to_end(at)
            return made.decision
        decision = decide(bundle, query, pool, now=now)
        if decision.reason is Reason.BRAIN_FAILED:
            return decision
        self._made[at] = _Made(decision, now, _until(bundle, now))
        self._made.move_to_end(at)
        if len(self._made) > self._most:
            self._made.popitem(last=False)
        return decision

    def _forget_others(self, bundle: Bundle, pool: Pool) -> None:
        """Lets all decisions go that are of another bundle, or of a pool that differs in more than pace."""
        if pool is self._pool and bundle.contents is self._contents:
            return
        models = tuple([replace(model, pace=None) for model in pool.models])
        reference = self._pool.reference if self._pool is not None else ""
        same = models == self._models and pool.reference == reference and bundle.contents is self._contents
        if not same:
            self._made.clear()
        self._pool, self._models, self._contents = pool, models, bundle.contents


def _has_time(query: Query, pool: Pool) -> bool:
    """Whether there is time for whatever the decision may lead to: then it does not hang on time."""
    if query.seconds_left == math.inf:
        return True
    paces = [model.pace for model in pool.models if model.pace]
    slowest = max([pace.expected_seconds(query.max_tokens) for pace in paces], default=0.0)
    return _MOST_IN_TURN * slowest <= query.seconds_left


def _until(bundle: Bundle, now: float) -> float:
    ends = [one.expires for one in bundle.certificates if one.expires is not None and one.valid_at(now)]
    return min(ends, default=math.inf)
