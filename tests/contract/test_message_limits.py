"""Every field that a stranger may fill has an end: read from the descriptors, so none is forgotten."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from packaging.requirements import Requirement
from packaging.version import Version

from buf.validate import validate_pb2
from headgate.adapters.decoding import UNDECODABLE, _guard
from headgate.v1 import admin_pb2, router_pb2, types_pb2, worker_pb2

ROOT = Path(__file__).parents[2]
FILES: Final[tuple[FileDescriptor, ...]] = (
    router_pb2.DESCRIPTOR, worker_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR, types_pb2.DESCRIPTOR,
)  # fmt: skip
OPEN_ENDED: Final = {
    f"google.protobuf.{name}" for name in ("Any", "Struct", "Value", "ListValue", "FieldMask")
}
UNLIMITED: Final[dict[str, str]] = {}
"""Fields without a limit, each with its reason. There are none."""
FLOORS: Final = {
    "protobuf": ("6.31.1", "the decoder in Python stops at a depth"),
    "grpcio": ("1.65.4", "the HTTP/2 faults of 2023 and 2024 are mended"),
    "redis": ("4.5.5", "a cancelled command no longer leaves its reply to the next one"),
}
FIRST_GROUP: Final = 0x0B
"""The tag that opens a group as field 1; one such byte is one more level."""


def _requests(files: tuple[FileDescriptor, ...]) -> list[Descriptor]:
    return [
        method.input_type
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def _reachable(roots: list[Descriptor]) -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}
    waiting = list(roots)
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found[message.full_name] = message
            waiting += [field.message_type for field in message.fields if field.message_type]
    return found


REQUESTS = {
    name: message
    for name, message in _reachable(_requests(FILES)).items()
    if not message.GetOptions().map_entry  # Looked at where the map is.
}


def _unlimited(message: Descriptor) -> Iterator[str]:
    """Its fields that may be of any size."""
    for field in message.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if not _is_limited(field, rules):
            yield field.full_name


def _is_limited(field: FieldDescriptor, rules: Any) -> bool:
    if field.message_type and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        sized = rules.map.max_pairs > 0 and _sized(entry["key"], rules.map.keys)
        return sized and _sized(entry["value"], rules.map.values)
    if field.is_repeated:
        return rules.repeated.max_items > 0 and _sized(field, rules.repeated.items)
    return _sized(field, rules)


def _sized(field: FieldDescriptor, rules: Any) -> bool:
    """Whether one value has an end; numbers and enums have one by nature, messages in their own fields."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bool(rules.bytes.max_len)
    if field.type != FieldDescriptor.TYPE_STRING:
        return True
    text = rules.string
    return bool(text.max_bytes or text.max_len or _ends(text.pattern))


def _ends(pattern: str) -> bool:
    """Whether a pattern of ours bounds what it matches: anchored, and each repetition counted."""
    anchored = pattern.startswith("^") and pattern.endswith("$")
    return anchored and not re.search(r"[*+]|,\}", re.sub(r"\[[^\]]*\]", "", pattern))


@pytest.mark.parametrize("name", REQUESTS)
def test_every_field_of_a_request_has_an_end(name: str) -> None:
    assert set(_unlimited(REQUESTS[name])) <= set(UNLIMITED)


def test_the_walk_sees_the_fields_that_matter() -> None:
    assert {"headgate.v1.Query", "headgate.v1.Message", "headgate.v1.Part", "headgate.v1.Sampling"} <= set(
        REQUESTS
    )


def test_no_request_contains_itself() -> None:
    """So its depth is that of the schema, and nothing that a caller sends can deepen it."""
    for name, message in REQUESTS.items():
        below = _reachable([field.message_type for field in message.fields if field.message_type])
        assert name not in below


def test_no_message_of_ours_takes_anything_whatever() -> None:
    """google.rpc.Status, whose details are Any, is an answer only, in gRPC's own words."""
    ours = {name: one for file in FILES for name, one in file.message_types_by_name.items()}
    used = {
        field.message_type.full_name for one in ours.values() for field in one.fields if field.message_type
    }
    assert not used & OPEN_ENDED
    assert not set(REQUESTS) & {*OPEN_ENDED, "google.rpc.Status"}


def _mutant(*fields: FieldDescriptorProto) -> Descriptor:
    file = FileDescriptorProto(name="mutant.proto", package="mutant", syntax="proto3")
    file.message_type.append(DescriptorProto(name="Mutant", field=fields))
    pool = DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("mutant.Mutant")


@pytest.mark.parametrize("kind", ["TYPE_STRING", "TYPE_BYTES"])
@pytest.mark.parametrize("label", ["LABEL_OPTIONAL", "LABEL_REPEATED"])
def test_a_field_without_a_limit_is_noticed(kind: str, label: str) -> None:
    field = FieldDescriptorProto(name="x", number=1)
    field.type = FieldDescriptorProto.Type.Value(kind)
    field.label = FieldDescriptorProto.Label.Value(label)
    assert list(_unlimited(_mutant(field))) == ["mutant.Mutant.x"]


@pytest.mark.parametrize(
    ("pattern", "ends"),
    [
        ("^[a-z]{1,128}$", True),
        ("^[a-z+*]{3}$", True),
        ("^[a-z]+$", False),
        ("^a{1,}$", False),
        ("[a-z]{1,9}", False),
    ],
)
def test_a_pattern_counts_where_it_has_an_end(pattern: str, ends: bool) -> None:
    assert _ends(pattern) is ends


@pytest.mark.parametrize("name", REQUESTS)
def test_bytes_that_are_150_levels_deep_are_no_message(name: str) -> None:
    """Groups that no schema knows are the only way down; the decoder must end before Python's stack does."""
    decode = _guard(GetMessageClass(REQUESTS[name]).FromString)
    assert decode(bytes([FIRST_GROUP]) * 150) is UNDECODABLE
    assert decode(bytes([FIRST_GROUP]) * 150 + bytes([FIRST_GROUP + 1]) * 150) is UNDECODABLE


@pytest.mark.parametrize("package", FLOORS)
def test_no_library_is_older_than_the_one_that_mended_it(package: str) -> None:
    mended, _ = FLOORS[package]
    floor = _floor(package)
    assert Version(mended) <= floor <= Version(version(package))


def _floor(package: str) -> Version:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    wanted = next(one for one in map(Requirement, asked) if one.name == package)
    return min(Version(one.version) for one in wanted.specifier if one.operator == ">=")
