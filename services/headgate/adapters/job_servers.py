"""How the servers are set up that jobs are kept on: asked once, when a process starts.

Records of jobs that have not ended do not expire, nor do the broker's tasks: a policy that evicts only what
expires (`volatile-…`) is good for both, though a full server then forgets before their time how jobs ended.
"""

from __future__ import annotations

from typing import Final

from headgate.adapters.redis_client import FAILURES, connect, is_url
from headgate.adapters.settings import ConfigError

REPLY_S: Final = 2.0
"""A start waits so long for a server that says nothing."""


async def check(records_url: str, broker_url: str) -> list[str]:
    """What the operator should know, a sentence each; ConfigError where a server may evict what must be kept.

    A server that is away or may not be asked is no reason to stay away too. A broker that is no Redis is not
    asked.
    """
    found = await _check("redis.url", records_url, "records of jobs", keeps=True)
    if broker_url != records_url and is_url(broker_url):
        found += await _check("jobs.broker", broker_url, "tasks of jobs", keeps=False)
    return found


async def _check(setting: str, url: str, what: str, *, keeps: bool) -> list[str]:
    """`keeps` says that what is there is nowhere else."""
    client = connect(url, REPLY_S, REPLY_S)
    try:
        # INFO and not CONFIG: more users may ask for it, and hosted servers answer.
        told = await client.info()
    except FAILURES as error:
        return [f"{setting}: this Redis does not say what it evicts and keeps ({type(error).__name__})"]
    finally:
        await client.aclose()
    policy = str(told.get("maxmemory_policy", ""))
    if policy.startswith("allkeys-"):
        raise ConfigError(
            f"{setting}: this Redis may evict {what} (maxmemory-policy {policy}); set its "
            "maxmemory-policy to noeviction, or name a Redis that evicts only what expires"
        )
    if keeps and told.get("aof_enabled") == 0:
        lost = "jobs accepted since its last save are lost if it dies; set appendonly yes"
        return [f"{setting}: this Redis keeps no AOF: {lost}"]
    return []
