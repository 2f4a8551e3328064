"""What a worker's spans tell: of the call that it serves, and of its call of an upstream."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from grpc import aio

from headgate.adapters import trace_words as words
from headgate.adapters import traces
from headgate.adapters.traces import Span, Value
from headgate.v1 import worker_pb2
from headgate.worker.backends.base import Chunk

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
"""Of a model, as an upstream says it; any other text of an upstream is not repeated."""


def entered(
    description: worker_pb2.DescribeModelResponse, context: aio.ServicerContext[object, object]
) -> Span:
    """The span of a call of the worker, where the gateway traces it."""
    name = f"{words.CHAT} {description.model}"
    span = traces.entered(name, "server", context.invocation_metadata)
    if span.recording:
        span.set({
            words.RPC_SYSTEM: "grpc", words.RPC_METHOD: "headgate.v1.WorkerService/Generate",
            words.OPERATION: words.CHAT, words.PROVIDER: description.backend,
            words.REQUEST_MODEL: description.model, words.VERSION: description.version,
        })  # fmt: skip
    return span


def calling(source: str, base_url: str) -> Span:
    """The span of a call of an upstream. It ends with the `with` block that it is for."""
    span = traces.begun("client", words.CHAT, source)
    if span.recording:
        where = urlsplit(base_url)
        # The API's provider: who really serves it, only the operator knows.
        told: dict[str, Value] = {words.OPERATION: words.CHAT, words.PROVIDER: "openai"}
        told |= {words.REQUEST_MODEL: source, words.SERVER_ADDRESS: where.hostname or ""}
        span.set(told | ({words.SERVER_PORT: where.port} if where.port else {}))
    return span


def answered(span: Span, last: Chunk, model: object = "") -> None:
    """What an answer's last chunk says; `model` as the upstream calls it."""
    if not span.recording:
        return
    told: dict[str, Value] = {}
    if last.usage is not None:
        told[words.INPUT_TOKENS] = last.usage.prompt_tokens
        told[words.OUTPUT_TOKENS] = last.usage.completion_tokens
    if last.finish_reason is not None:
        told[words.FINISH_REASONS] = [last.finish_reason.value]
    if isinstance(model, str) and _NAME.fullmatch(model):
        told[words.RESPONSE_MODEL] = model
    span.set(told)
