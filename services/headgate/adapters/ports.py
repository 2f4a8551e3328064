"""What the gateway asks of its side rooms. Each port has an in-memory twin in `memory` and a Redis one.

A side room may fail: its methods then raise SideRoomError within their time cap, and the caller of the
gateway still gets an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class SideRoomError(Exception):
    """The side room cannot be asked now. The message names the kind of failure, never a key or a value."""


class Store(Protocol):
    """Bytes under keys, each with a time to live."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or it has expired. Raises SideRoomError."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Sets the value. Raises SideRoomError."""


class Ledger(Protocol):
    """An append-only stream of records."""

    async def append(self, records: Sequence[Mapping[str, str]]) -> None:
        """Appends all in order. Raises SideRoomError; then some of them may have been written."""


class Budget(Protocol):
    """Money taken from accounts, in nano-dollars, the same for every process. An account is forgotten after

    two days, so its name holds the day.
    """

    async def reserve(self, account: str, amount: int, most: int) -> bool:
        """Takes the amount unless more than `most` would be taken then; whether it did.

        Raises SideRoomError; then it may have been taken.
        """

    async def give_back(self, account: str, amount: int) -> None:
        """Returns what was not spent; a negative amount takes more. Raises SideRoomError."""

    async def taken(self, account: str) -> int:
        """What was taken so far. Raises SideRoomError."""
