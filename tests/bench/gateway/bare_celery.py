"""The least that Celery does with a task, as most people write it: its settings are its defaults.

    BENCH_BROKER=redis://… python -m celery -A tests.bench.gateway.bare_celery worker --concurrency 2

echo comes back with what it was given; ask makes the call that a job runner makes, and comes back with its text.
"""

from __future__ import annotations

import os

import celery
import grpc

from headgate.v1 import router_pb2, router_pb2_grpc

ECHO, ASK = "bare.echo", "bare.ask"
_stubs: dict[str, router_pb2_grpc.RouterServiceStub] = {}


def make_app(url: str) -> celery.Celery:
    """For those who send as for those who run."""
    made = celery.Celery("bare", broker=url, backend=url)
    made.task(name=ECHO)(echo)
    made.task(name=ASK)(ask)
    return made


def echo(text: str) -> str:
    return text


def ask(address: str, authorization: str, query: str) -> str:
    request = router_pb2.StreamGenerateRequest.FromString(bytes.fromhex(query))
    events = _stub(address).StreamGenerate(request, timeout=30, metadata=(("authorization", authorization),))
    return "".join(event.delta.text for event in events)


def _stub(address: str) -> router_pb2_grpc.RouterServiceStub:
    """Made in the child that uses it, and kept."""
    if address not in _stubs:
        _stubs[address] = router_pb2_grpc.RouterServiceStub(grpc.insecure_channel(address))
    return _stubs[address]


if "BENCH_BROKER" in os.environ:
    app = make_app(os.environ["BENCH_BROKER"])
