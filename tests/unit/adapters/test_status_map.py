"""Errors on the wire: code, reason, details; nothing of an unknown error's text."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[attr-defined]

from headgate.adapters import status_map
from headgate.adapters.status_map import (
    ContextTooLongError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    Violation,
)
from headgate.router.errors import ObjectiveError


def _subclasses(kind: type) -> list[type]:
    return [one for child in kind.__subclasses__() for one in (child, *_subclasses(child))]


@pytest.mark.parametrize("kind", _subclasses(ServiceError), ids=lambda kind: kind.__name__)
def test_every_error_of_ours_has_a_row_of_its_own(kind: type[Exception]) -> None:
    assert kind in status_map.TABLE
    reasons = [reason for _, reason in status_map.TABLE.values()]
    assert len(set(reasons)) == len(reasons)


def test_the_status_carries_reason_and_domain() -> None:
    status = status_map.to_status(ObjectiveError("ask for more"))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("NO_CERTIFICATE", "headgate")
    assert (status.code, status.message) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "ask for more")


def test_a_more_special_error_keeps_its_own_reason() -> None:
    assert status_map.reason_of(status_map.to_status(ContextTooLongError("too long"))) == "CONTEXT_TOO_LONG"


def test_wrong_fields_are_listed() -> None:
    wrong = InvalidRequestError("a: bad", [Violation("a", "bad"), Violation("b.c", "worse")])
    bad = error_details_pb2.BadRequest()
    assert status_map.to_status(wrong).details[1].Unpack(bad)
    assert [(one.field, one.description) for one in bad.field_violations] == [("a", "bad"), ("b.c", "worse")]


def test_listed_fields_are_found_again() -> None:
    violations = [Violation("a", "bad"), Violation("b.c", "worse")]
    assert (
        status_map.violations_of(status_map.to_status(InvalidRequestError("a: bad", violations)))
        == violations
    )
    assert status_map.violations_of(status_map.to_status(InvalidRequestError("bad"))) == []


def test_when_to_come_back_is_told() -> None:
    assert status_map.retry_after_s(status_map.to_status(OverloadedError("full", retry_after_s=0.25))) == 0.25
    assert status_map.retry_after_s(status_map.to_status(OverloadedError("full"))) is None


def test_an_unknown_error_says_nothing_of_itself() -> None:
    status = status_map.to_status(ValueError("the prompt was: secret"))
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in str(status)


class _Context:
    """Keeps what an abort was given."""

    async def abort(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, Any], ...]) -> None:
        self.code, self.details, self.trailing = code, details, dict(trailing)


async def test_an_abort_mirrors_the_pause_for_grpc_s_own_retries() -> None:
    context: Any = _Context()
    await status_map.abort(context, OverloadedError("full", retry_after_s=0.5))
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert context.trailing[status_map.PUSHBACK_KEY] == "500"
