"""Asks a process of the stack whether it serves, by the standard gRPC health protocol."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headgate.adapters import channels

TIMEOUT_S = 2.0


async def serving(address: str, service: str = "") -> bool:
    """Whether `service` at `host:port` says SERVING; False when nobody answers in time."""
    async with channels.channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
