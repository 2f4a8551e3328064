"""Which kept question is nearest to a new one: vectors by scope, in the memory of one process.

A scope is a digest of the tenant and of everything that an answer depends on besides the last question. It is
a wall: a search looks into one scope and nowhere else, whatever the texts look like. Inside a scope entries
lie in one place for each `fold` of their facts, so that "17 + 25" is not looked for among all other sums.

A place is searched flat, row by row. One that has outgrown that hands its oldest rows to a graph (HNSW,
Malkov and Yashunin 2016, by usearch), a few with each row that is added: no step is long. The graph only
proposes; similarities are always those of the rows themselves. A neighbour that it overlooks is a missed hit.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

FLAT: Final = 10_000
"""Rows that are searched one by one: 0.25 ms at 128 numbers each, where a graph takes 0.15."""
LEAST_FLAT: Final = 2_500
"""Rows that stay out of the graph: to put one in takes some 0.2 ms, and many go before their turn comes."""
AT_A_TIME: Final = 2
"""Rows that move into the graph with each that is added: more than one, so that the others get fewer."""
MOST_LOOKED: Final = 32
"""Neighbours whose facts are compared: the further ones are too far to be served."""
OF_TENANT: Final = 20_000
IN_ALL: Final = 100_000
"""Entries that are kept, of one tenant and of all: some 60 MB, 50 more where a graph holds them."""
_SWEEP: Final = 4
"""Expired entries that are forgotten with each that is added: they leave faster than they come."""
_FEW: Final = 4
_UNIT: Final = 1e-3
"""How far from 1 the length of a vector may be, rounding allowed for."""

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A question that has an answer, without its words."""

    id: bytes
    """16 bytes. An entry takes the place of an older one with the same id."""
    scope: bytes
    tenant: str
    route: bytes
    """16 bytes: among which questions errors are counted together."""
    answer: bytes
    """32 bytes: the digest of the key under which the exact cache has the answer."""
    vector: Vector
    """(dim,) float32, of length 1."""
    facts: bytes
    model: str
    tags: tuple[str, ...]
    made_at: float
    expires_at: float
    """Both in POSIX seconds."""


class Neighbour(NamedTuple):
    """The nearest entry, and the cosine between it and the question, in [-1, 1]."""

    entry: Entry
    similarity: float


class Neighbours:
    """All entries of a process."""

    def __init__(
        self,
        differ: Callable[[bytes, bytes], str],
        fold: Callable[[bytes], bytes] = lambda facts: b"",
        of_tenant: int = OF_TENANT,
        in_all: int = IN_ALL,
        flat: int = FLAT,
    ) -> None:
        """`differ(a, b)` says in what two questions' facts differ, empty where in nothing.

        `fold(facts)` must be the same for facts that do not differ. Of more than `of_tenant` entries of one
        tenant, or `in_all`, the oldest go. A place of more than `flat` rows gets a graph.
        """
        self._differ = differ
        self._fold = fold
        self._of_tenant = of_tenant
        self._in_all = in_all
        self._flat = flat
        self._places: dict[tuple[bytes, bytes], _Place] = {}
        self._graphs = _graphs()
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._tenants: dict[str, OrderedDict[bytes, None]] = {}
        self._expiries: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def graphed(self) -> bool:
        """Whether some place has outgrown a flat search, and there is a graph for it."""
        return any(place.graphed for place in self._places.values())

    def ids(self, tenant: str) -> list[bytes]:
        """Of the tenant's entries, the oldest first."""
        return list(self._tenants.get(tenant, ()))

    def add(self, entry: Entry, now: float) -> None:
        """Adds an entry unless it has expired or its vector is none; forgets what there is no room for."""
        self.forget(entry.id)
        self._sweep(now)
        if entry.expires_at <= now or not is_unit(entry.vector):
            return
        at = (entry.scope, self._fold(entry.facts))
        place = self._places.get(at)
        if place is None:
            place = self._places[at] = _Place(entry.vector.size, self._graphs, self._flat)
        if place.dim != entry.vector.size:
            return
        place.add(entry)
        self._entries[entry.id] = entry
        own = self._tenants.setdefault(entry.tenant, OrderedDict())
        own[entry.id] = None
        heapq.heappush(self._expiries, (entry.expires_at, entry.id))
        if len(own) > self._of_tenant:
            self.forget(next(iter(own)))
        if len(self._entries) > self._in_all:
            self.forget(next(iter(self._entries)))

    def nearest(
        self, scope: bytes, vector: Vector, facts: bytes, now: float, but: bytes = b""
    ) -> Neighbour | None:
        """The nearest entry of the scope whose facts do not differ and that has not expired.

        `but` is the digest of an answer whose entry is passed over.
        """
        place = self._places.get((scope, self._fold(facts)))
        if place is None or place.dim != vector.size:
            return None
        for entry, similarity in place.near(vector):
            if entry.answer != but and entry.expires_at > now and not self._differ(entry.facts, facts):
                return Neighbour(entry, similarity)
        return None

    def forget(self, *ids: bytes) -> None:
        """Forgets these; an id that is not there is passed over."""
        for one in ids:
            entry = self._entries.pop(one, None)
            if entry is None:
                continue
            own = self._tenants[entry.tenant]
            del own[one]
            if not own:
                del self._tenants[entry.tenant]
            at = (entry.scope, self._fold(entry.facts))
            place = self._places[at]
            place.remove(entry)
            if not place.entries:
                del self._places[at]

    def purge(self, tenant: str, model: str = "", tag: str = "") -> None:
        """Forgets the tenant's entries: all, or those of a model, with a tag, or both."""
        own = [self._entries[one] for one in self._tenants.get(tenant, ())]
        self.forget(*(entry.id for entry in own if is_meant(entry, model, tag)))

    def _sweep(self, now: float) -> None:
        """Forgets a few that have expired, and what was forgotten before its time from the list of times."""
        for _ in range(_SWEEP):
            if not self._expiries or self._expiries[0][0] > now:
                break
            expires_at, one = heapq.heappop(self._expiries)
            entry = self._entries.get(one)
            if entry is not None and entry.expires_at <= expires_at:
                self.forget(one)
        if len(self._expiries) > 2 * len(self._entries) + self._in_all:
            self._expiries = [(entry.expires_at, entry.id) for entry in self._entries.values()]
            heapq.heapify(self._expiries)


def is_unit(vector: Vector) -> bool:
    """Whether the vector is finite and of length 1: one of no known word is near to nothing."""
    return bool(abs(float(vector @ vector) - 1) < _UNIT)


def is_meant(entry: Entry, model: str, tag: str) -> bool:
    """Whether a purge of this model and tag takes the entry; empty is any."""
    return (not model or entry.model == model) and (not tag or tag in entry.tags)


class _Place:
    """Rows that are searched together: first those in the graph, then those that are not."""

    def __init__(self, dim: int, graphs: Callable[[int], _Graph] | None, flat: int) -> None:
        self.dim = dim
        self.entries: list[Entry] = []
        self._graphs = graphs
        self._flat = flat
        self._rows: Vector = np.empty((_FEW, dim), np.float32)
        self._row: dict[bytes, int] = {}
        self._graph: _Graph | None = None

    @property
    def graphed(self) -> bool:
        return self._graph is not None

    def add(self, entry: Entry) -> None:
        count = len(self.entries)
        if count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[count] = entry.vector
        self._row[entry.id] = count
        self.entries.append(entry)
        if self._graph is None and self._graphs is not None and count >= self._flat:
            self._graph = self._graphs(self.dim)
        if self._graph is not None:
            self._move_in(self._graph, min(self._flat, LEAST_FLAT))

    def remove(self, entry: Entry) -> None:
        """Fills the gap with the last row of its part, so that both parts stay in one piece."""
        row = self._row.pop(entry.id)
        graph = self._graph
        if graph is not None and row < graph.size:
            graph.remove(row)
            self._copy(graph.size, row)
            row = graph.size
        self._copy(len(self.entries) - 1, row)
        self.entries.pop()
        if graph is not None and not graph.size:
            self._graph = None
        if len(self._rows) > _FEW and len(self.entries) <= len(self._rows) // 4:
            self._rows = self._rows[: len(self._rows) // 2].copy()

    def near(self, vector: Vector) -> Iterable[tuple[Entry, float]]:
        """The nearest entries, at most MOST_LOOKED of each part, with their cosines, the nearest first."""
        outside = self._graph.size if self._graph else 0
        cosines = self._rows[outside : len(self.entries)] @ vector
        if cosines.size > MOST_LOOKED:
            best = np.argpartition(cosines, -MOST_LOOKED)[-MOST_LOOKED:]
        else:
            best = np.arange(cosines.size)
        found = [(float(cosines[one]), outside + int(one)) for one in best]
        if self._graph:
            rows = self._graph.near(vector)
            found += zip((self._rows[rows] @ vector).tolist(), rows, strict=True)
        for cosine, row in sorted(found, reverse=True):
            yield self.entries[row], cosine

    def _move_in(self, graph: _Graph, least: int) -> None:
        for _ in range(min(AT_A_TIME, len(self.entries) - graph.size - least)):
            graph.append(self._rows[graph.size])

    def _copy(self, source: int, target: int) -> None:
        if source != target:
            entry = self.entries[source]
            self._rows[target] = self._rows[source]
            self.entries[target] = entry
            self._row[entry.id] = target


class _Graph:
    """The first `size` rows of a place, by their numbers, in an index of usearch."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self._keys: list[int] = []
        self._row: dict[int, int] = {}
        self._next = 0

    @property
    def size(self) -> int:
        return len(self._keys)

    def append(self, vector: Vector) -> None:
        self._index.add(self._next, vector, threads=1)
        self._row[self._next] = len(self._keys)
        self._keys.append(self._next)
        self._next += 1

    def remove(self, row: int) -> None:
        """The last row takes the number of the one that goes."""
        key = self._keys[row]
        self._index.remove(key)
        del self._row[key]
        last = self._keys.pop()
        if last != key:
            self._keys[row] = last
            self._row[last] = row

    def near(self, vector: Vector) -> list[int]:
        keys = self._index.search(vector, MOST_LOOKED, threads=1).keys
        return [self._row[key] for key in map(int, keys) if key in self._row]


def _graphs() -> Callable[[int], _Graph] | None:
    """None where usearch is not installed: then the search stays flat, and takes longer the more rows."""
    try:
        from usearch.index import Index
    except ImportError:
        return None
    return lambda dim: _Graph(Index(ndim=dim, metric="ip", dtype="f16"))
