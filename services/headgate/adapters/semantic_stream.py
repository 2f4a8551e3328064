"""What one process knows of one tenant's stream, and how it notices that it missed something.

Pure: replies of Redis in, events out. Every process that has read a stream to its end knows the same of it,
whenever it began, because a cut carries the audits that it takes away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final, TypeAlias

from headgate.adapters import semantic_events as events
from headgate.adapters.semantic_events import Added, Audited, Begin, Cut, Event, Fields, Place, Purged

Raw: TypeAlias = tuple[bytes, Fields | None]
START: Final[Place] = (0, 0)
"""Before every event."""


class Read(Enum):
    """How far a reply brought us."""

    ALL = "all"
    """To the stream's end."""
    PART = "part"
    """There is more to read."""
    GAP = "gap"
    """Events may be gone that were never read: all is forgotten, and has to be read from the start."""


@dataclass(frozen=True, slots=True)
class Rebased:
    """After a cut: these entries are gone, and these are all audits that count, in their order."""

    gone: tuple[bytes, ...]
    audits: tuple[Audited, ...]
    wrong: tuple[Audited, ...] = ()
    """Audits that do not count any more, but by which entries that are left were found wrong."""


Told: TypeAlias = Begin | Added | Audited | Purged | Rebased


class SemanticStream:
    """A stream as far as it was read."""

    def __init__(self) -> None:
        self.last = START
        """The last event that was read."""
        self.whole = False
        """Whether the end was reached since the start: a cut further on may carry audits from before it."""
        self._first = START
        """The first one that is there, by what was read; `START` while nothing was."""
        self._events: deque[tuple[Place, bytes]] = deque()
        """Their places, with the id of an entry, else nothing."""
        self._audits: dict[Place, Audited] = {}
        self._wrong: dict[Place, Audited] = {}

    def __len__(self) -> int:
        return len(self._events)

    def take(self, first: Sequence[Raw], last: Sequence[Raw], news: Sequence[Raw]) -> tuple[list[Told], Read]:
        """What is new, in order. All three are of one moment: the stream's first event, its last one, and

        the next ones after `self.last`.
        """
        if not first or not last:
            return (self._forget(), Read.ALL) if self.last != START else ([], Read.ALL)
        begins, ends = events.place(first[0][0]), events.place(last[0][0])
        if self.last != START and not begins <= self.last <= ends:
            return self._forget(), Read.GAP
        if self.last == START:
            self._first = begins
        told = [self._one(events.place(name), found or {}) for name, found in news]
        if self.last < ends:
            return told, Read.PART
        if self._first != begins:
            return self._forget(), Read.GAP
        self.whole = True
        return told, Read.ALL

    def cut(self, kept: int, most_audits: int) -> Cut:
        """What leaves the last `kept` events, which must be there, and at most so many audits; of one

        that is `whole`.
        """
        audits = tuple(self._audits.items())
        left = {one for _, one in islice(reversed(self._events), kept)}
        worst: dict[tuple[bytes, bytes], tuple[Place, Audited]] = {}
        for at, audit in (*self._wrong.items(), *audits[:-most_audits]):
            _, known = worst.get((audit.route, audit.entry), (at, audit))
            if not audit.same and audit.entry in left and audit.similarity >= known.similarity:
                worst[audit.route, audit.entry] = at, audit
        return Cut(self._events[-kept][0], self.last, audits[-most_audits:], tuple(worst.values()))

    def _one(self, place: Place, found: Mapping[bytes, bytes]) -> Told:
        self.last = place
        event: Event = events.event(dict(found))
        self._events.append((place, event.id if isinstance(event, Added) else b""))
        match event:
            case Begin():
                self._events.clear()
                self._audits.clear()
                self._wrong.clear()
            case Audited():
                self._audits[place] = event
            case Cut():
                return self._rebase(event)
        return event

    def _rebase(self, cut: Cut) -> Rebased:
        """An audit counts once, and the same ones count everywhere: those that whoever cut had read come from

        the cut, whether they were read here or not, and later ones stay. So do mistakes that do not count.
        """
        self._first = max(self._first, cut.first)
        later = {place: audit for place, audit in self._audits.items() if place > cut.read}
        wrong = {place: audit for place, audit in self._wrong.items() if place > cut.read}
        self._audits, self._wrong = dict(cut.audits) | later, dict(cut.wrong) | wrong
        gone = set()
        while self._events and self._events[0][0] < cut.first:
            gone.add(self._events.popleft()[1])
        gone -= {one for _, one in self._events} | {b""}
        return Rebased(tuple(gone), tuple(self._audits.values()), tuple(self._wrong.values()))

    def _forget(self) -> list[Told]:
        self.last = self._first = START
        self.whole = False
        self._events.clear()
        self._audits.clear()
        self._wrong.clear()
        return [Begin()]
