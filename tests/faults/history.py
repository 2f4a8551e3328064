"""What clients saw, held against what really happened: the gateway's ledger and the upstream's.

Clients append an entry for every request; after the faults have healed, each function here returns the
entries that break its invariant, and a test asserts that there are none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

from headgate.router.cost import estimate_tokens
from headgate.v1 import router_pb2
from tests.faults.upstream import Call

TOKENS_A_PRICE = 1_000_000


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


def broken(
    entries: Sequence[Entry],
    whole: str,
    records: Sequence[Mapping[bytes, bytes]],
    ledger: Iterable[Call],
    price: Mapping[str, int],
) -> dict[str, list[Entry]]:
    """The entries that break each invariant, by its name."""
    return {
        "silent cuts": silent_cuts(entries, whole),
        "wrong tokens": wrong_tokens(entries, whole),
        "not recorded once": not_recorded_once(entries, records),
        "charged otherwise": charged_otherwise(entries, records, ledger, price),
    }


def counted(found: Mapping[str, Sequence[Entry]]) -> str:
    """How many broke which invariant, in words."""
    return ", ".join(f"{len(entries)} {name}" for name, entries in found.items())


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


def charged_otherwise(
    entries: Iterable[Entry],
    records: Sequence[Mapping[bytes, bytes]],
    ledger: Iterable[Call],
    price: Mapping[str, int],
) -> list[Entry]:
    """Streams whose record has another cost than what the upstream's ledger bears out at the pool's `price`.

    A stream pays for one call: one without text is free, and after one with text there is no other. Finished,
    it pays what the upstream reported of the last call, and its client was told so. Cut, it pays by the
    gateway's estimate, at least for what its client saw and at most for what the upstream wrote.
    """
    costs = {record[b"request_id"].decode(): int(record[b"cost_nanousd"]) for record in records
             if record[b"kind"] == b"request"}  # fmt: skip
    calls: defaultdict[str, list[Call]] = defaultdict(list)
    for call in ledger:
        calls[call.key].append(call)

    def fair(entry: Entry) -> bool:
        cost = costs.get(entry.request_id, -1)
        least, most = _due(entry, calls[entry.request_id], price)
        return least <= cost <= most and (entry.code is not grpc.StatusCode.OK or entry.cost_nanousd == cost)

    return [entry for entry in entries if not fair(entry)]


def _due(entry: Entry, calls: Sequence[Call], price: Mapping[str, int]) -> tuple[int, int]:
    """The least and the most that the stream may be charged."""
    if not calls:
        return 0, 0
    if entry.code is grpc.StatusCode.OK:
        exactly = _reported(calls[-1], price)
        return exactly, exactly
    used = (cost for call in calls for cost in (_estimated(call, call.text, price), _reported(call, price)))
    return _estimated(calls[-1], entry.text, price), max(used)


def _reported(call: Call, price: Mapping[str, int]) -> int:
    """What the upstream counted; nothing until it said so."""
    return _cost(price, call.usage["prompt_tokens"], call.usage["completion_tokens"]) if call.usage else 0


def _estimated(call: Call, text: str, price: Mapping[str, int]) -> int:
    """What the call's prompt and so much of its answer cost by the gateway's estimate; no text is free."""
    prompt = sum(estimate_tokens(message["content"]) for message in call.body["messages"])
    return _cost(price, prompt, estimate_tokens(text)) if text else 0


def _cost(price: Mapping[str, int], prompt: int, completion: int) -> int:
    """Nano-dollars; exact where prices are whole nano-dollars a token."""
    return (prompt * price["input_nanousd"] + completion * price["output_nanousd"]) // TOKENS_A_PRICE
