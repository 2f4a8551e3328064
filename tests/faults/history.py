"""What clients saw, held against what really happened: the gateway's ledger and the upstream's.

Clients append an entry for every request; after the faults have healed, each function here returns the
entries that break its invariant, and a test asserts that there are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

from headgate.v1 import router_pb2


@dataclass(slots=True)
class Entry:
    """One request as its client saw it."""

    request_id: str
    kinds: list[str] = field(default_factory=list)
    """The events of a stream, in order."""
    text: str = ""
    code: grpc.StatusCode | None = None
    """None while nobody knows how it ended."""
    cost_nanousd: int = 0

    def take(self, event: router_pb2.StreamGenerateResponse) -> None:
        """Notes an event of a stream."""
        self.kinds.append(str(event.WhichOneof("event")))
        self.text += event.delta.text
        if event.HasField("finished"):
            self.cost_nanousd = event.finished.decision.cost_nanousd


class History:
    """The entries of a run."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def stream(
        self, call: grpc.aio.UnaryStreamCall[object, router_pb2.StreamGenerateResponse], request_id: str
    ) -> Entry:
        """Follows a stream to its end, whatever that is."""
        entry = Entry(request_id)
        self.entries.append(entry)
        try:
            async for event in call:
                entry.take(event)
            entry.code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            entry.code = error.code()
        return entry


def silent_cuts(entries: Iterable[Entry], whole: str) -> list[Entry]:
    """Streams without a terminal event, or that claim to be finished and are not `whole`."""
    return [entry for entry in entries if not _ended_openly(entry, whole)]


def _ended_openly(entry: Entry, whole: str) -> bool:
    if entry.code is grpc.StatusCode.OK:
        return entry.kinds[-1:] == ["finished"] and entry.text == whole
    return entry.code is not None and "finished" not in entry.kinds


def wrong_tokens(entries: Iterable[Entry], whole: str) -> list[Entry]:
    """Streams whose text is no beginning of `whole`: a token is missing, doubled or not theirs."""
    return [entry for entry in entries if not whole.startswith(entry.text)]


def not_recorded_once(entries: Iterable[Entry], records: Sequence[Mapping[bytes, bytes]]) -> list[Entry]:
    """Requests that have no record in the gateway's ledger, or more than one."""
    counted = Counter(record[b"request_id"].decode() for record in records if record[b"kind"] == b"request")
    return [entry for entry in entries if counted[entry.request_id] != 1]


def charged_otherwise(entries: Iterable[Entry], records: Sequence[Mapping[bytes, bytes]]) -> list[Entry]:
    """Finished requests whose record names another cost than the client was told."""
    costs = {record[b"request_id"].decode(): int(record[b"cost_nanousd"]) for record in records
             if record[b"kind"] == b"request"}  # fmt: skip
    finished = (entry for entry in entries if entry.code is grpc.StatusCode.OK)
    return [entry for entry in finished if costs.get(entry.request_id) != entry.cost_nanousd]
