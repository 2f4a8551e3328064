"""What the gateway asks of its side rooms. Each port has an in-memory twin in `memory` and a Redis one.

A side room may fail: its methods then raise SideRoomError within their time cap, and the caller of the
gateway still gets an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, Protocol

ALONE_S: Final = 1.0
"""How long those who miss the same ask a model each for himself, after one who led had nothing to keep."""


class SideRoomError(Exception):
    """The side room cannot be asked now. The message names the kind of failure, never a key or a value."""


class Store(Protocol):
    """Bytes under keys, each with a time to live."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or it has expired. Raises SideRoomError."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Sets the value. Raises SideRoomError."""


class Role(Enum):
    """What becomes of who finds no answer."""

    LEADS = "leads"
    """Asks a model; all others wait for that."""
    LED = "led"
    """Somebody else asks one already."""
    ALONE = "alone"
    """Who led came to no answer that can be kept: everybody asks for himself."""
    REFUSED = "refused"
    """The store takes no writes: it keeps nobody waiting, and no answer."""


class Answers(Protocol):
    """Kept answers under keys, and who is just making one: of those who miss the same, one leads."""

    async def find(self, key: str, known: bytes, leader: bytes, lease_s: float) -> bytes | Role:
        """The value; where there is none, or it begins with `known`, what is to be done instead.

        An empty value is none. Who LEADS does so under the name `leader` for the lease, unless he renews it.
        Raises SideRoomError.
        """

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one; nobody leads for that. Raises SideRoomError."""

    async def put(self, key: str, value: bytes, ttl_s: float, leader: bytes, known: bytes | None) -> bool:
        """Sets the value, if `leader` leads, nothing is there, or it begins with `known`; whether it did.

        `known` None sets it in any case. The leader's flight is over. Raises SideRoomError.
        """

    async def stay(self, key: str, leader: bytes, lease_s: float) -> None:
        """Renews the lease, if it is the leader's still. Raises SideRoomError."""

    async def leave(self, key: str, leader: bytes, *, alone: bool) -> None:
        """The leader has no answer to keep: another one is to lead, or, if `alone`, nobody for a moment.

        Raises SideRoomError.
        """


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

    async def give_back(self, account: str, amount: int) -> int:
        """Returns what was not spent; a negative amount takes more. Says what is taken now.

        Raises SideRoomError.
        """

    async def taken(self, account: str) -> int:
        """What was taken so far. Raises SideRoomError."""
