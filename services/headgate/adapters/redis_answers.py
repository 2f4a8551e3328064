"""The port Answers on Redis: a key for each answer, and one for who makes it, which ends with his lease."""

from __future__ import annotations

from typing import Any, Final, cast

from redis.asyncio import Redis

from headgate.adapters.ports import ALONE_S, Role, SideRoomError
from headgate.adapters.redis_client import PREFIX, READ_CAP_S, WRITE_CAP_S, Guard

_FLIGHT: Final = "headgate:flight:"

_FIND: Final = """
local value = redis.call('GET', KEYS[1]) or ''
if value ~= '' and (ARGV[1] == '' or string.sub(value, 1, #ARGV[1]) ~= ARGV[1]) then return {value} end
local leader = redis.call('GET', KEYS[2])
if leader and leader ~= ARGV[2] then return {false, leader == '' and 'alone' or 'led'} end
local led = redis.pcall('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {false, led.err and 'refused' or 'leads'}
"""
_PUT: Final = """
local leads = ARGV[3] ~= '' and redis.call('GET', KEYS[2]) == ARGV[3]
if not leads and ARGV[5] == '' then
  local value = redis.call('GET', KEYS[1]) or ''
  if value ~= '' and (ARGV[4] == '' or string.sub(value, 1, #ARGV[4]) ~= ARGV[4]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if leads then redis.call('DEL', KEYS[2]) end
return 1
"""
_STAY: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end"
_LEAVE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], '', 'PX', ARGV[2]) end
"""


class RedisAnswers:
    """Answers; every key expires."""

    def __init__(self, client: Redis, guard: Guard) -> None:
        self._client = client
        self._guard = guard
        self._find = client.register_script(_FIND)
        self._put = client.register_script(_PUT)
        self._stay = client.register_script(_STAY)
        self._leave = client.register_script(_LEAVE)

    async def find(self, key: str, known: bytes, leader: bytes, lease_s: float) -> bytes | Role:
        """The value, or what is to be done instead. Raises SideRoomError within 25 ms."""
        arguments: list[Any] = [known, leader, _ms(lease_s)]
        told = await self._guard.run(
            lambda: self._find(keys=[PREFIX + key, _FLIGHT + key], args=arguments), READ_CAP_S
        )
        match told:
            case [bytes(value)]:
                return value
            case [None, bytes(role)]:
                return Role(role.decode())
        raise SideRoomError("an unknown reply")

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one. Raises SideRoomError within 25 ms."""
        told = await self._guard.run(lambda: self._client.get(PREFIX + key), READ_CAP_S)
        return cast("bytes | None", told)

    async def put(self, key: str, value: bytes, ttl_s: float, leader: bytes, known: bytes | None) -> bool:
        """Sets the value, if `leader` leads, nothing is there, or it begins with `known`; whether it did.

        `known` None sets it in any case. The leader's flight is over. Raises SideRoomError within 100 ms.
        """
        in_any_case = "1" if known is None else ""
        arguments: list[Any] = [value, _ms(ttl_s), leader, known or b"", in_any_case]
        return bool(await self._write(lambda: self._put(keys=[PREFIX + key, _FLIGHT + key], args=arguments)))

    async def stay(self, key: str, leader: bytes, lease_s: float) -> None:
        """Renews the lease, if it is the leader's still. Raises SideRoomError within 100 ms."""
        await self._write(lambda: self._stay(keys=[_FLIGHT + key], args=[leader, _ms(lease_s)]))

    async def leave(self, key: str, leader: bytes, *, alone: bool) -> None:
        """The leader has no answer to keep. Raises SideRoomError within 100 ms."""
        alone_ms = _ms(ALONE_S) if alone else 0
        await self._write(lambda: self._leave(keys=[_FLIGHT + key], args=[leader, alone_ms]))

    async def _write(self, command: Any) -> Any:
        return await self._guard.run(cast("Any", command), WRITE_CAP_S)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
