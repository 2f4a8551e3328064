"""How errors look on the wire: one table from error class to gRPC code and reason.

Every failed call of a Headgate service ends with a `google.rpc.Status` that carries
`ErrorInfo(domain="headgate", reason=…)`, plus `BadRequest` where fields are wrong and `RetryInfo` where
coming back makes sense. Errors without a row are bugs: INTERNAL, with no text of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import google.rpc.error_details_pb2 as error_details_pb2  # type: ignore[import-untyped]
import google.rpc.status_pb2 as status_pb2  # type: ignore[import-untyped]
import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2

from headgate.router.errors import BundleError, ObjectiveError, PoolError

DOMAIN: Final = "headgate"
DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"


class ServiceError(Exception):
    """A failure that a caller is meant to see; the message never contains prompts, keys or secrets."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field: its path, such as `query.sampling.temperature`, and what is wrong with it."""

    field: str
    description: str


class InvalidRequestError(ServiceError):
    """The request cannot be read or a field is out of its range."""

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class KeyMissingError(ServiceError):
    """The call carries no credentials."""


class KeyInvalidError(ServiceError):
    """The key is unknown, wrong or expired; callers are not told which."""


class PermissionDeniedError(ServiceError):
    """The tenant may not ask that."""


class ModelUnknownError(ServiceError):
    """A query pins a model that the pool does not have."""


class OverloadedError(ServiceError):
    """Shed: no room inside."""


class ContextTooLongError(InvalidRequestError):
    """The conversation does not fit into the model's context."""


class NotRecordedError(ServiceError):
    """The replay backend has no recorded answer to the query."""


class WorkerMisconfiguredError(ServiceError):
    """The upstream turned the worker's credentials or model name away: only the operator can help."""


class WorkerUnavailableError(ServiceError):
    """A worker or its engine cannot be reached."""


class DeadlineError(ServiceError):
    """The caller's deadline passed, or the upstream did not go on in time."""


class LedgerUnavailableError(ServiceError):
    """The ledger cannot be written."""


class CacheUnavailableError(ServiceError):
    """Kept answers cannot be purged now."""


class JobsOffError(ServiceError):
    """This gateway takes no jobs."""


class JobUnknownError(ServiceError):
    """The tenant has no such job, or no longer."""


class JobExistsError(ServiceError):
    """The job's name was given to another query."""


class JobRecordsUnavailableError(ServiceError):
    """Records of jobs cannot be written or read now."""


class ReloadError(ServiceError):
    """A config or bundle was refused; the old one keeps serving."""


class DrainingError(ServiceError):
    """The process takes no new requests."""


# The first matching row of an error's class hierarchy wins.
TABLE: Final[dict[type[Exception], tuple[grpc.StatusCode, str]]] = {
    InvalidRequestError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ContextTooLongError: (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG"),
    KeyMissingError: (grpc.StatusCode.UNAUTHENTICATED, "KEY_MISSING"),
    KeyInvalidError: (grpc.StatusCode.UNAUTHENTICATED, "KEY_INVALID"),
    PermissionDeniedError: (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"),
    ModelUnknownError: (grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN"),
    OverloadedError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    NotRecordedError: (grpc.StatusCode.NOT_FOUND, "NOT_RECORDED"),
    WorkerMisconfiguredError: (grpc.StatusCode.FAILED_PRECONDITION, "WORKER_MISCONFIGURED"),
    WorkerUnavailableError: (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE"),
    DeadlineError: (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    JobsOffError: (grpc.StatusCode.UNIMPLEMENTED, "JOBS_OFF"),
    JobUnknownError: (grpc.StatusCode.NOT_FOUND, "JOB_UNKNOWN"),
    JobExistsError: (grpc.StatusCode.ALREADY_EXISTS, "JOB_EXISTS"),
    JobRecordsUnavailableError: (grpc.StatusCode.UNAVAILABLE, "JOB_RECORDS_UNAVAILABLE"),
    LedgerUnavailableError: (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE"),
    CacheUnavailableError: (grpc.StatusCode.UNAVAILABLE, "CACHE_UNAVAILABLE"),
    DrainingError: (grpc.StatusCode.UNAVAILABLE, "DRAINING"),
    ReloadError: (grpc.StatusCode.FAILED_PRECONDITION, "RELOAD_REFUSED"),
    PoolError: (grpc.StatusCode.FAILED_PRECONDITION, "NO_ELIGIBLE_MODEL"),
    ObjectiveError: (grpc.StatusCode.FAILED_PRECONDITION, "NO_CERTIFICATE"),
    BundleError: (grpc.StatusCode.FAILED_PRECONDITION, "BUNDLE_REFUSED"),
}
_BUG: Final = (grpc.StatusCode.INTERNAL, "INTERNAL")


def code_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The error's code and reason; INTERNAL for errors without a row."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return _BUG


def to_status(error: BaseException) -> status_pb2.Status:
    """The error as it travels."""
    code, reason = code_of(error)
    message = str(error) if (code, reason) != _BUG else "internal error; the server's log names it"
    return status(code, reason, message, _details(error))


def status(
    code: grpc.StatusCode, reason: str, message: str, details: Sequence[any_pb2.Any] = ()
) -> status_pb2.Status:
    """A `google.rpc.Status` with ErrorInfo of Headgate's domain in front of the other details."""
    info = _pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    return status_pb2.Status(code=code.value[0], message=message, details=[info, *details])


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
    """End the call with the error's status."""
    await abort_with(context, to_status(error))


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], answer: status_pb2.Status) -> NoReturn:
    """End the call with that status, RetryInfo mirrored as the header that gRPC's own retries obey."""
    trailing: list[tuple[str, str | bytes]] = [(DETAILS_KEY, answer.SerializeToString())]
    pause = retry_after_s(answer)
    if pause is not None:
        trailing.append((PUSHBACK_KEY, str(round(pause * 1000))))
    await context.abort(CODES[answer.code], answer.message, tuple(trailing))


def of_call(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """The status that a Headgate service sent with a failed call; None when the transport failed instead."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            answer = status_pb2.Status()
            try:
                answer.ParseFromString(value if isinstance(value, bytes) else value.encode())
            except ValueError:
                return None
            return answer if answer.code == error.code().value[0] else None
    return None


def retry_after_s(answer: status_pb2.Status) -> float | None:
    """When to come back, in seconds; None without RetryInfo."""
    for detail in answer.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            info = error_details_pb2.RetryInfo()
            detail.Unpack(info)
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None


def reason_of(answer: status_pb2.Status) -> str:
    """The ErrorInfo reason; empty without one."""
    for detail in answer.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            return str(info.reason)
    return ""


def violations_of(answer: status_pb2.Status) -> list[Violation]:
    """The fields that BadRequest names; empty without one."""
    for detail in answer.details:
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            return [Violation(str(one.field), str(one.description)) for one in bad.field_violations]
    return []


CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def _details(error: BaseException) -> list[any_pb2.Any]:
    details = []
    if isinstance(error, InvalidRequestError) and error.violations:
        details.append(_pack(_bad_request(error.violations)))
    if isinstance(error, ServiceError) and error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return details


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    fields = [
        error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.description)
        for violation in violations
    ]
    return error_details_pb2.BadRequest(field_violations=fields)


def _pack(
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
