"""What an upstream's failure means, in our words: nothing of its bodies and URLs or of our key goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx2
import openai

from headgate.worker.backends.base import (
    BackendError,
    ContextTooLongError,
    RequestRejectedError,
    UpstreamBrokenError,
    UpstreamOverloadedError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)

UPSTREAM_FAULTS: Final = (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, ValueError)
"""What the SDK, its HTTP client and its decoders raise when the upstream is at fault."""

_UNSAID_RETRY_S = 1.0
_LEAST_RETRY_S, _MOST_RETRY_S = 0.05, 3600.0
# How OpenAI, vLLM, SGLang, llama.cpp and Ollama say it: there is no status of its own.
_TOO_LONG = re.compile(
    r"context.?(length|size|window)|maximum.{0,20}tokens|too (long|many tokens)", re.IGNORECASE
)


def translate(error: Exception) -> BackendError:
    """The backend error for whatever the SDK or its HTTP client raised."""
    match error:
        case openai.APIStatusError():
            return of_status(error.status_code, error.response.headers, str(error.body))
        case openai.APIConnectionError() | httpx2.ConnectError() | httpx2.ConnectTimeout():
            return _of_connection(error)
        case openai.APIError():
            return UpstreamBrokenError("the upstream reported an error in the middle of its answer")
        case httpx2.TransportError():
            return UpstreamBrokenError("the connection to the upstream broke in the middle of its answer")
        case _:
            return UpstreamBrokenError("the upstream sent something that is no answer")


def _of_connection(error: Exception) -> BackendError:
    """The SDK wraps what broke an answer in the same class as what kept it from starting."""
    if isinstance(error.__cause__, httpx2.RemoteProtocolError | httpx2.ReadError | httpx2.DecodingError):
        return UpstreamBrokenError("the connection to the upstream broke")
    return UpstreamUnavailableError("the upstream cannot be reached")


def of_status(status: int, headers: Mapping[str, str], body: str) -> BackendError:
    """The backend error for an HTTP status that is no success."""
    said = f"the upstream answered with HTTP {status}"
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(body)):
        return ContextTooLongError("the conversation is longer than the upstream's context")
    if status in (400, 422):
        return RequestRejectedError(f"{said}: it does not take this request", field="")
    if status == 408:
        return UpstreamTimeoutError(said)
    if status == 429 or (status >= 500 and "retry-after" in headers):
        return UpstreamOverloadedError(said, retry_after_s(headers))
    if status >= 500 or status in (409, 425):
        return UpstreamUnavailableError(said)
    return UpstreamRefusedError(f"{said}: check base_url, api_key and source of this model in the config")


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait, 0.05 to 3600; 1 where the upstream does not say."""
    said = _milliseconds(headers.get("retry-after-ms", ""))
    if said is None:
        said = _seconds(headers.get("retry-after", ""))
    return _UNSAID_RETRY_S if said is None else min(max(said, _LEAST_RETRY_S), _MOST_RETRY_S)


def _milliseconds(value: str) -> float | None:
    return int(value) / 1000 if re.fullmatch(r"\d{1,9}", value) else None


def _seconds(value: str) -> float | None:
    """A number of seconds or an HTTP date."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
