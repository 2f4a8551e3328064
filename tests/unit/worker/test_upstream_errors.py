from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from headgate.worker.backends.base import ContextTooLongError, RequestRejectedError
from headgate.worker.backends.upstream_errors import of_status, retry_after_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 1.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "0"}, 0.05),
        ({"retry-after": "999999"}, 3600.0),
        ({"retry-after": "soon"}, 1.0),
        ({"retry-after": "-3"}, 1.0),
        ({"retry-after": "nan"}, 1.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers) == seconds


def test_retry_after_as_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < retry_after_s({"retry-after": later}) <= 30
    assert retry_after_s({"retry-after": format_datetime(datetime.now(UTC) - timedelta(days=1))}) == 0.05


@pytest.mark.parametrize(
    "body",
    [
        '{"error": {"code": "context_length_exceeded"}}',
        "This model's maximum context length is 4096 tokens",
        "the request exceeds the available context size",
        "input is too long for the context window",
        "too many tokens: maximum of 512 tokens",
    ],
)
def test_a_context_that_is_too_long_is_told_from_other_bad_requests(body: str) -> None:
    assert isinstance(of_status(400, {}, body), ContextTooLongError)


def test_other_bad_requests_name_no_field() -> None:
    error = of_status(400, {}, "temperature must be below 2")
    assert type(error) is RequestRejectedError
    assert error.field == ""
