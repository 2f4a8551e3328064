"""`python -m headgate.adapters.probe ADDRESS`: asks a process whether it serves; 0 when it says so, else 1.

127.0.0.1:7072                  the standard gRPC health service, of the process as a whole
http://127.0.0.1:9474/metrics   any page that is answered with 200, for processes that serve no gRPC
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import sys
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headgate.adapters import channels

TIMEOUT_S: Final = 2.0


def main(arguments: Sequence[str]) -> int:
    """The exit code; one sentence on stderr when it is not 0. No key is needed, and no TLS spoken."""
    parser = argparse.ArgumentParser(
        prog="python -m headgate.adapters.probe", description="Whether a process of Headgate serves."
    )
    parser.add_argument("address", help="HOST:PORT of gRPC health, or http://HOST:PORT/PATH of any page")
    parser.add_argument("--service", default="", help="whose health; without it the process's")
    flags = parser.parse_args(arguments)
    if flags.address.startswith("http://"):
        serves = answers(flags.address)
    else:
        serves = asyncio.run(serving(flags.address, flags.service))
    if not serves:
        print(f"{flags.address} does not serve", file=sys.stderr)
    return 0 if serves else 1


async def serving(address: str, service: str = "") -> bool:
    """Whether `service` at `host:port` says SERVING; False when nobody answers in time."""
    async with channels.channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def answers(url: str) -> bool:
    """Whether a page is answered with 200; False when nobody answers in time."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
