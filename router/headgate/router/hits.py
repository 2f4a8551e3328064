"""From which similarity on cached answers may be served, so that few enough of them are wrong.

An *audit* compares a cached answer with a fresh one. Thresholds of similarity are tested one after the other,
from the strictest on, up to the first that fails (fixed-sequence testing, Maurer, Hothorn & Lehmacher 1995):
each by a bet against "more than ε of the hits at or above it are wrong" (`betting.log_capital`), which is won
once the capital is 1/δ. The bet may be looked at after every audit (Ville's inequality): for as long as its
hypothesis is true, it is ever won with probability at most δ.

What is certified is what is served. An entry that was found wrong at a similarity is served no more at or
below it and a margin; audits that this rules out do not count. Where hits are audited seldom because they
are already served, those below the threshold, all of which are audited, weigh too much in the next level's
test. That errs on the safe side: what weighs too little has passed its own test.

Old audits fade. A level's bet starts anew every so many audits of it and is played over twice as many; two
players with half the capital each are at it at a time. Once the capital falls below 1/δ, the level and all
below it are withdrawn until they earn it again. So the statement is: until the first start anew at all times,
and later at any one time, all that is served is within ε with probability 1-δ, if what is asked does not
change meanwhile. Where it does, a level is withdrawn as later audits outweigh earlier ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, inf, log, log1p

from headgate.router.betting import log_capital

GRID = tuple(round(0.96 - 0.02 * step, 2) for step in range(14))
"""The thresholds, from the strictest on."""
MARGIN = 0.02
"""By how much more alike than at its worst mistake a question must be to an entry that made one."""
ENTRIES = 16_384
"""Entries whose mistakes are remembered; those of the longest ago are forgotten first."""
_SPAN = 4
"""A bet starts anew after so many times the audits by which a level without mistakes is certified."""
_ASCENDING = GRID[::-1]
_HALVINGS = 50


@dataclass(frozen=True, slots=True)
class Audit:
    """One cached answer beside a fresh one."""

    entry: bytes
    """The id of the cached entry that would have been served."""
    similarity: float
    """Of the two questions, whose guards agree."""
    same: bool
    """Whether the fresh answer equals the entry's."""


class _Bet:
    """One level's audits since either of two starts; `older` is None until the first span is over."""

    __slots__ = ("newer", "older")

    def __init__(self) -> None:
        self.newer: tuple[int, int] = (0, 0)
        self.older: tuple[int, int] | None = None

    def note(self, wrong: Sequence[bool], span: int) -> None:
        """Takes audits in, in their order: at once as many as are left of a span."""
        done = 0
        while done < len(wrong):
            some = wrong[done : done + span - self.newer[0]]
            count, mistakes = len(some), sum(some)
            self.newer = (self.newer[0] + count, self.newer[1] + mistakes)
            if self.older is not None:
                self.older = (self.older[0] + count, self.older[1] + mistakes)
            if self.newer[0] == span:
                self.older, self.newer = self.newer, (0, 0)
            done += count

    def log_capital(self, level: float) -> float:
        """Of both players together, half of it each."""
        newer = log_capital(*self.newer, level)
        if self.older is None:
            return newer
        older = log_capital(*self.older, level)
        most = max(newer, older)
        return most + log((exp(newer - most) + exp(older - most)) / 2)


class HitBound:
    """The threshold that a stream of audits allows; the same stream gives the same one in every process.

    A note costs some 0.1 ms, whatever the number of audits, and 20,000 at once some 20: of each level four
    counts are kept, and of each of at most `ENTRIES` entries one number.
    """

    def __init__(self, wrong_hits: float, confidence: float) -> None:
        """`wrong_hits` is ε, the largest share of wrong ones among hits; both in (0, 1), else ValueError."""
        if not (0 < wrong_hits < 1 and 0 < confidence < 1):
            raise ValueError("a share of wrong hits and a confidence lie between 0 and 1, both excluded")
        self._level, self._goal = wrong_hits, -log1p(-confidence)
        self._span = _SPAN * clean_audits(wrong_hits, confidence)
        self._bets = tuple(_Bet() for _ in GRID)
        self._floors: dict[bytes, float] = {}
        self._served = 0
        self._audits = 0

    def note(self, audit: Audit) -> None:
        """Takes one audit in, the next one of the stream."""
        self.note_all((audit,))

    def note_all(self, audits: Iterable[Audit]) -> None:
        """Takes the stream's next audits in: the same as to note one after the other, but fast."""
        counted: list[tuple[int, bool]] = []
        for audit in audits:
            self._audits += 1
            if audit.similarity > self._floors.get(audit.entry, -inf):
                counted.append((len(GRID) - bisect_right(_ASCENDING, audit.similarity), not audit.same))
            if not audit.same:
                self.bar(audit.entry, audit.similarity)
        for level, bet in enumerate(self._bets):
            bet.note([wrong for first, wrong in counted if first <= level], self._span)
        self._served = self._certified()

    def bar(self, entry: bytes, similarity: float) -> None:
        """Serves an entry no more at or below a similarity and the margin; says nothing of other entries.

        For mistakes whose audits are too old to be noted.
        """
        floor = max(self._floors.pop(entry, -inf), similarity + MARGIN)
        self._floors[entry] = floor
        if len(self._floors) > ENTRIES:
            del self._floors[next(iter(self._floors))]

    def serves(self, similarity: float, entry: bytes) -> bool:
        """Whether a hit on `entry` may be served at this similarity."""
        if not self._served or not similarity >= GRID[self._served - 1]:
            return False
        return similarity > self._floors.get(entry, -inf)

    @property
    def threshold(self) -> float | None:
        """The smallest similarity that is served now; None if nothing is."""
        return GRID[self._served - 1] if self._served else None

    @property
    def wrong_at_most(self) -> float:
        """Upper bound, at the confidence, of the share of wrong ones among the hits served now.

        While none are served, of those that would be the first; 1.0 without audits of them.
        """
        bet = self._bets[max(self._served - 1, 0)]
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if bet.log_capital(middle) >= self._goal else (middle, high)
        return high

    @property
    def audits(self) -> int:
        """How many were noted."""
        return self._audits

    def _certified(self) -> int:
        """Levels, from the strictest on, whose bets are won."""
        for place, bet in enumerate(self._bets):
            if bet.log_capital(self._level) < self._goal:
                return place
        return len(GRID)


def clean_audits(wrong_hits: float, confidence: float) -> int:
    """Audits without a mistake by which a level is certified; 268 at 1 % and 90 %."""
    goal, low, high = -log1p(-confidence), 0, 1
    while log_capital(high, 0, wrong_hits) < goal:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_capital(middle, 0, wrong_hits) >= goal else (middle, high)
    return high
