"""Which kept answers were purged: what was made before an order is never given again."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from headgate.gateway.entries import Entry, Facts

SKEW_S: Final = 2.0
"""By so much the clocks of two machines may differ: what began within it after an order falls, too."""
_SPARE: Final = 2
"""So many times as long as the orders the heap of them may be."""


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """Answers to which all that is set applies; what is empty applies to any."""

    tenant: str = ""
    model: str = ""
    tag: str = ""


class Purges:
    """The latest order of each scope, given in any order of time."""

    def __init__(self) -> None:
        self._orders: dict[Scope, float] = {}
        self._oldest: list[tuple[float, Scope]] = []
        """A heap of all orders, with some that a later one of the same scope took the place of."""

    def __len__(self) -> int:
        return len(self._orders)

    def order(self, scope: Scope, at: float) -> None:
        """From now on the scope is purged of what began up to `at`, in POSIX seconds."""
        if at <= self._orders.get(scope, -math.inf):
            return
        self._orders[scope] = at
        heapq.heappush(self._oldest, (at, scope))
        if len(self._oldest) > _SPARE * len(self._orders):
            self._oldest = [(at, scope) for scope, at in self._orders.items()]
            heapq.heapify(self._oldest)

    def forget(self, before: float) -> None:
        """Lets orders go that were given before that: of what they speak of, all has expired."""
        while self._oldest and self._oldest[0][0] < before:
            at, scope = heapq.heappop(self._oldest)
            if self._orders.get(scope) == at:
                del self._orders[scope]

    def cover(self, tenant: str, entry: Entry | Facts) -> bool:
        """Whether the tenant's entry may not be given any more."""
        if not self._orders:
            return False
        begun = entry.made_at - SKEW_S
        return any(self._orders.get(scope, 0.0) >= begun for scope in _scopes(tenant, entry))


def _scopes(tenant: str, entry: Entry | Facts) -> Iterator[Scope]:
    for owner in (tenant, ""):
        for model in (entry.model, ""):
            for tag in (*entry.tags, ""):
                yield Scope(owner, model, tag)
