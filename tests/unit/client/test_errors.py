from __future__ import annotations

import inspect

import grpc
import pytest
from google.rpc.status_pb2 import Status

from headgate.client import errors
from headgate.client.errors import CannotServe, HeadgateError, Overloaded, ServerFault, StreamCut, Unavailable


def test_the_drawn_tree_is_the_real_one():
    drawn = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─").partition(" ")[0]
        kind = getattr(errors, name, None)
        if line.startswith("    ") and inspect.isclass(kind):
            depth = (len(line) - len(line.lstrip(" │├└─")) - 4) // 4
            path[depth:] = [name]
            drawn[name] = path[depth - 1] if depth else "Exception"
    real = {
        name: kind.__base__.__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, HeadgateError)
    }
    assert drawn == real


def test_a_status_without_details_still_has_a_type():
    error = errors.from_status(Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]))
    assert isinstance(error, Overloaded)
    assert str(error) == "RESOURCE_EXHAUSTED"
    assert error.retry_after_s is None


def test_a_failed_precondition_is_not_always_about_certificates():
    error = errors.from_status(Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="x"))
    assert type(error) is CannotServe


def test_an_unknown_code_is_a_server_fault():
    assert isinstance(errors.from_status(Status(code=99)), ServerFault)


@pytest.mark.parametrize(("partial", "kind"), [("", Unavailable), ("4", StreamCut)])
def test_before_the_first_byte_a_loss_is_no_cut(partial, kind):
    error = errors.cut_after(partial, Unavailable("gone"))
    assert type(error) is kind
    assert error.partial == partial


class Broken(grpc.RpcError):
    """A call whose rich status is garbage."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "plain words"

    def trailing_metadata(self):
        return (("grpc-status-details-bin", b"\xff\xff\xff"),)


def test_broken_details_fall_back_to_the_plain_status():
    error = errors.from_call(Broken())
    assert type(error) is Unavailable
    assert str(error) == "plain words"
