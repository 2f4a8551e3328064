"""A stream that is made of Python lists: who reads it late knows what who read it from the start knows."""

from __future__ import annotations

import random

from headgate.adapters import semantic_events as events
from headgate.adapters.semantic_events import Added, Audited, Begin, Cut, Event, Place, Purged
from headgate.adapters.semantic_stream import START, Read, Rebased, SemanticStream, Told

ROUTE = bytes(16)


class Server:
    """One stream."""

    def __init__(self) -> None:
        self.events: list[tuple[bytes, events.Fields]] = []
        self._time = 1

    def add(self, event: Event) -> None:
        self._time += 1
        self.events.append((events.written((self._time, 0)), events.fields(event)))
        if isinstance(event, Cut):
            self.trim(event.first)

    def trim(self, first: Place) -> None:
        self.events = [one for one in self.events if events.place(one[0]) >= first]


class Reader:
    """A process's knowledge, as a cache has it."""

    def __init__(self) -> None:
        self.stream = SemanticStream()
        self.entries: dict[bytes, None] = {}
        self.audits: list[Audited] = []
        self.wrong: list[Audited] = []

    def read(self, server: Server, count: int = 1_000) -> Read:
        news = [one for one in server.events if events.place(one[0]) > self.stream.last][:count]
        told, read = self.stream.take(server.events[:1], server.events[-1:], news)
        for one in told:
            self._fold(one)
        return read

    def read_on(self, server: Server) -> int:
        gaps = 0
        while (read := self.read(server, 7)) is not Read.ALL:
            gaps += read is Read.GAP
        return gaps

    def _fold(self, told: Told) -> None:
        match told:
            case Begin():
                self.entries, self.audits, self.wrong = {}, [], []
            case Added():
                self.entries.pop(told.id, None)
                self.entries[told.id] = None
            case Audited():
                self.audits.append(told)
            case Purged():
                self.entries = {}
            case Rebased():
                for one in told.gone:
                    self.entries.pop(one, None)
                self.audits, self.wrong = list(told.audits), list(told.wrong)

    def knows(self) -> tuple[list[bytes], list[Audited], list[Audited]]:
        return sorted(self.entries), self.audits, self.wrong

    def worst(self) -> dict[bytes, float]:
        """Of each entry that is there the similarity of its worst mistake."""
        wrong = [one for one in (*self.audits, *self.wrong) if not one.same and one.entry in self.entries]
        return {one.entry: one.similarity for one in sorted(wrong, key=lambda one: one.similarity)}


def entry(number: int) -> Added:
    name = number.to_bytes(16, "big")
    return Added(name, bytes(32), ROUTE, bytes(32), b"", b"", "small", (), 0.0, 1.0)


def audit(number: int) -> Audited:
    return Audited(ROUTE, number.to_bytes(16, "big"), 0.5, number % 2 == 0)


def test_who_reads_late_knows_what_the_others_know(seed: int) -> None:
    """Random events, cuts by readers that are behind, readers that come late and are late."""
    draw = random.Random(seed)
    for _ in range(60):
        server, readers = Server(), [Reader() for _ in range(3)]
        server.add(Begin())
        made = 0
        for number in range(400):
            match draw.choices("eapc+r", [50, 20, 1, 4, 1, 24])[0]:
                case "e":
                    server.add(entry(draw.randrange(100)))
                case "a":
                    server.add(audit(made := made + 1))
                case "p":
                    server.add(Purged("", "", number))
                case "c":
                    cutter = draw.choice(readers).stream
                    if cutter.whole and len(cutter) > 20:
                        server.add(cutter.cut(20, 1_000))
                case "+":
                    readers.append(Reader())
                case "r":
                    draw.choice(readers).read(server, draw.randrange(1, 30))
        for reader in [*readers, Reader()]:
            reader.read_on(server)
            readers[0].read_on(server)
            assert reader.knows() == readers[0].knows()
        assert sorted(one.entry for one in readers[0].audits) == sorted(
            number.to_bytes(16, "big") for number in range(1, made + 1)
        ), "each audit counts once, whatever was cut"


def test_a_cut_takes_no_entry_that_came_again() -> None:
    server, reader = Server(), Reader()
    for number in (1, 2, 1, 3):
        server.add(entry(number))
    reader.read_on(server)
    server.add(reader.stream.cut(2, 10))
    reader.read_on(server)
    assert [int.from_bytes(one, "big") for one in reader.knows()[0]] == [1, 3]


def test_a_cut_carries_the_last_audits_and_no_more() -> None:
    server, reader, late = Server(), Reader(), Reader()
    for number in range(10):
        server.add(audit(number))
    reader.read_on(server)
    server.add(reader.stream.cut(2, 4))
    for one in (reader, late):
        one.read_on(server)
        assert [int.from_bytes(audit.entry, "big") for audit in one.audits] == [6, 7, 8, 9]


def test_an_entry_that_is_left_stays_wrong_however_many_audits_were_cut(seed: int) -> None:
    """Entries come seldom and are audited often, and of the audits four are kept."""
    draw = random.Random(seed)
    for _ in range(60):
        server, readers, worst = Server(), [Reader() for _ in range(3)], dict[bytes, float]()
        server.add(Begin())
        for number in range(300):
            match draw.choices("eacr", [10, 40, 3, 20])[0]:
                case "e":
                    server.add(entry(number))
                case "a":
                    name = draw.randrange(number + 1).to_bytes(16, "big")
                    audited = Audited(ROUTE, name, draw.choice((0.25, 0.5, 0.75)), draw.random() < 0.5)
                    server.add(audited)
                    if not audited.same:
                        worst[name] = max(audited.similarity, worst.get(name, 0))
                case "c":
                    cutter = draw.choice(readers).stream
                    if cutter.whole and len(cutter) > 100:
                        server.add(cutter.cut(100, 4))
                case "r":
                    draw.choice(readers).read(server, draw.randrange(1, 30))
        for reader in [*readers, Reader()]:
            reader.read_on(server)
            readers[0].read_on(server)
            assert reader.knows() == readers[0].knows()
            assert reader.worst() == {name: worst[name] for name in reader.entries if name in worst}
            assert len(reader.wrong) <= len(reader.entries)


def test_events_that_went_without_a_cut_are_a_gap() -> None:
    server, reader = Server(), Reader()
    for number in range(10):
        server.add(entry(number))
    reader.read_on(server)
    server.trim((6, 0))
    assert reader.read_on(server) == 1
    assert len(reader.entries) == 6


def test_events_that_went_before_they_were_read_are_a_gap() -> None:
    """A cut took them, and perhaps a purge with them."""
    server, quick, slow = Server(), Reader(), Reader()
    server.add(entry(0))
    slow.read_on(server)
    server.add(Purged("", "", 1.0))
    for number in range(1, 5):
        server.add(entry(number))
    quick.read_on(server)
    server.add(quick.stream.cut(3, 0))
    assert slow.read_on(server) == 1
    quick.read_on(server)
    assert slow.knows() == quick.knows()


def test_a_stream_that_is_gone_is_forgotten() -> None:
    server, reader = Server(), Reader()
    server.add(entry(1))
    reader.read_on(server)
    server.events.clear()
    assert reader.read(server) is Read.ALL
    assert reader.entries == {}
    assert reader.stream.last == START


def test_a_server_that_lost_its_last_events_is_read_again() -> None:
    server, reader, late = Server(), Reader(), Reader()
    for number in range(5):
        server.add(entry(number))
    reader.read_on(server)
    server.events.pop()
    assert reader.read_on(server) == 1
    late.read_on(server)
    assert reader.knows() == late.knows()


def test_another_stream_that_goes_on_later_is_begun_anew() -> None:
    server, reader = Server(), Reader()
    server.add(Begin())
    server.add(entry(1))
    reader.read_on(server)
    server.events.clear()
    server.add(Begin())
    server.add(entry(2))
    reader.read_on(server)
    assert [int.from_bytes(one, "big") for one in reader.entries] == [2]
