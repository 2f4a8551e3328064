"""`AdminService`: shows and changes the running process. It asks for no key and stays on loopback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TypeVar

import structlog

from headgate.adapters import status_map, validation
from headgate.adapters.status_map import ServiceError
from headgate.gateway.admission import Context
from headgate.gateway.purges import Scope
from headgate.router.errors import RouterError
from headgate.v1 import admin_pb2, admin_pb2_grpc

_LOG = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Controls:
    """What an operator can do. The reloads take effect as a whole or raise ServiceError or RouterError."""

    status: Callable[[], Awaitable[admin_pb2.GetStatusResponse]]
    reload_config: Callable[[], Awaitable[str]]
    reload_bundle: Callable[[], Awaitable[str]]
    purge: Callable[[Scope, bool], Awaitable[int]]
    """Of a scope; true: with names that the config does not have."""


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """The operator's methods; admin.proto says what each promises."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    async def GetStatus(  # noqa: N802
        self, _message: object, _context: Context
    ) -> admin_pb2.GetStatusResponse:
        """What is loaded and what is missing."""
        status = await self._controls.status()
        status.headgate_version = metadata.version("headgate")
        return status

    async def ReloadConfig(  # noqa: N802
        self, _message: object, context: Context
    ) -> admin_pb2.ReloadConfigResponse:
        """Takes the config file as it is now, or says why not."""
        return admin_pb2.ReloadConfigResponse(
            config_digest=await _taken(self._controls.reload_config, context)
        )

    async def ReloadBundle(  # noqa: N802
        self, _message: object, context: Context
    ) -> admin_pb2.ReloadBundleResponse:
        """Takes the bundle file as it is now, or says why not."""
        return admin_pb2.ReloadBundleResponse(
            bundle_version=await _taken(self._controls.reload_bundle, context)
        )

    async def PurgeCache(  # noqa: N802
        self, message: admin_pb2.PurgeCacheRequest, context: Context
    ) -> admin_pb2.PurgeCacheResponse:
        """Takes answers out of the answer cache."""
        scope = Scope(message.tenant, message.model, message.tag)

        async def purge() -> int:
            validation.check(message)
            return await self._controls.purge(scope, message.unknown)

        return admin_pb2.PurgeCacheResponse(removed=await _taken(purge, context))


async def _taken(change: Callable[[], Awaitable[T]], context: Context) -> T:
    try:
        return await change()
    except Exception as error:
        if not isinstance(error, ServiceError | RouterError):
            _LOG.exception("a change failed")
        await status_map.abort(context, error)
