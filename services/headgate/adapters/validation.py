"""Checks messages against the rules in `protos/`, and says which field is wrong."""

from __future__ import annotations

import protovalidate
from google.protobuf.message import Message

from headgate.adapters.status_map import InvalidRequestError, Violation

_VALIDATOR = protovalidate.Validator()


def check(message: Message) -> None:
    """Raises InvalidRequestError, with a violation for every wrong field, unless all rules are kept."""
    try:
        _VALIDATOR.validate(message)
    except protovalidate.ValidationError as invalid:
        found = [_violation(one.proto) for one in invalid.violations]
        raise InvalidRequestError(f"{found[0].field}: {found[0].description}", found) from None


def _violation(proto: protovalidate.ViolationPb) -> Violation:
    # A rule over a whole message has no field; its own words start with the field it is about.
    if proto.field is None or not proto.field.elements:
        field, _, words = proto.message.rpartition(": ")
        return Violation(field, words)
    return Violation(".".join(map(_step, proto.field.elements)), proto.message)


def _step(element: protovalidate.FieldPathElementPb) -> str:
    """A step of a path such as `messages[0].parts[1].text`; a map's key is the caller's and stays out."""
    subscript = element.subscript
    if subscript is None:
        return element.field_name
    return (
        f"{element.field_name}[{subscript.value}]"
        if subscript.field == "index"
        else f"{element.field_name}[]"
    )
