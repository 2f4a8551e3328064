"""Everything a call can raise, from the status that came over the wire.

    HeadgateError
    ├── InvalidRequest      a field is out of its range: `fields` names them
    ├── Unauthenticated     no key, or one that is unknown, wrong or expired
    ├── PermissionDenied    the tenant may not use that model
    ├── NotFound            the pinned model is not in the pool; no job of that name
    ├── AlreadyExists       the job's name was given to another query
    ├── CannotServe         as it is set up now, the gateway cannot do what was asked
    │   └── NotCertified    no certificate meets the risk target or budget that was asked for
    ├── Overloaded          shed: come back after `retry_after_s`
    ├── DeadlineExceeded    the deadline passed
    ├── Cancelled           the call was cancelled on this side
    ├── Unavailable         nobody could be reached: come back after `retry_after_s`
    │   └── StreamCut       part of the answer had arrived: `partial` holds it
    └── ServerFault         the gateway failed, or speaks another version
        └── NotServed       it does not have that method: its jobs are off

The client never asks for an answer twice: the one retry layer of Headgate lives in the gateway. Only what
a job names goes on after a broken connection: `jobs.submit_many` and `jobs.watch`.
"""

# ruff: noqa: N818 - the words of the tree say what happened; "Error" would only repeat it

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

_DETAILS = "grpc-status-details-bin"
_Detail = TypeVar("_Detail", bound=Message)


class HeadgateError(Exception):
    """Root of the client's errors. The message is the gateway's, one sentence."""

    def __init__(
        self, message: str, *, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        """The machine-readable reason, such as KEY_INVALID; empty when the gateway gave none."""
        self.retry_after_s: float | None = None
        """When it makes sense to come back; None when the gateway did not say."""
        self.partial = ""
        """Text of a stream that had arrived before it failed."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that was refused."""

    field: str
    """Its path, such as `query.messages[0].role`."""
    rule: str


class InvalidRequest(HeadgateError):
    """A field is out of its range."""

    fields: tuple[FieldViolation, ...] = ()


class Unauthenticated(HeadgateError):
    """No key, or one that is unknown, wrong or expired."""


class PermissionDenied(HeadgateError):
    """The tenant may not use that model."""


class NotFound(HeadgateError):
    """The pinned model is not in the pool, or the tenant has no job of that name, or no longer."""


class AlreadyExists(HeadgateError):
    """The job's name was given to another query."""


class CannotServe(HeadgateError):
    """As it is set up now, the gateway cannot do what was asked."""


class NotCertified(CannotServe):
    """No certificate meets the risk target or budget that was asked for."""


class Overloaded(HeadgateError):
    """The gateway, or the worker of the chosen model, is full."""


class DeadlineExceeded(HeadgateError):
    """The deadline passed."""


class Cancelled(HeadgateError):
    """The call was cancelled on this side."""


class Unavailable(HeadgateError):
    """Nobody could be reached."""


class StreamCut(Unavailable):
    """The stream broke after part of the answer had arrived."""


class ServerFault(HeadgateError):
    """The gateway failed, or speaks another version of the protocol."""


class NotServed(ServerFault):
    """The gateway does not have that method: its jobs are off, or it is older than this client."""


_BY_CODE: dict[grpc.StatusCode, type[HeadgateError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: CannotServe,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: NotServed,
}
_BY_REASON: dict[str, type[HeadgateError]] = {"NO_CERTIFICATE": NotCertified}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def from_call(error: grpc.RpcError) -> HeadgateError:
    """The typed error of a failed call, sync or aio: both carry code, details and trailing metadata."""
    call: grpc.Call = error  # type: ignore[assignment]
    return from_status(_rich_status(call) or Status(code=call.code().value[0], message=call.details() or ""))


def from_status(status: Status) -> HeadgateError:
    """The typed error of a google.rpc.Status."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    reason = next((info.reason for info in _details(status, ErrorInfo)), "")
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ServerFault)
    error = kind(status.message or code.name, code=code, reason=reason)
    error.retry_after_s = next(
        (info.retry_delay.ToTimedelta().total_seconds() for info in _details(status, RetryInfo)), None
    )
    if isinstance(error, InvalidRequest):
        error.fields = tuple(
            FieldViolation(violation.field, violation.description)
            for detail in _details(status, BadRequest)
            for violation in detail.field_violations
        )
    return error


def cut_after(partial: str, error: HeadgateError) -> HeadgateError:
    """What a stream raises that fails after `partial` has arrived: losing the gateway then is a cut."""
    if partial and type(error) is Unavailable:
        cut = StreamCut(f"the stream broke off: {error}", code=error.code, reason=error.reason)
        cut.retry_after_s = error.retry_after_s
        error = cut
    error.partial = partial
    return error


def _rich_status(call: grpc.Call) -> Status | None:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:
                return None
    return None


def _details(status: Status, kind: type[_Detail]) -> Iterator[_Detail]:
    for packed in status.details:
        detail = kind()
        if packed.Is(detail.DESCRIPTOR) and packed.Unpack(detail):
            yield detail
