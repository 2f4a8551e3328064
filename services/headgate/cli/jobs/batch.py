"""Lines of a batch file, as OpenAI's batches have them, turned into jobs.

A field that would change the answer and is not known here is refused: a file never means less than it
says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from headgate.client import JobRequest, Message
from headgate.client.jobs import JobClass, convert
from headgate.client.types import Options, Role

URL: Final = "/v1/chat/completions"
ROUTED: Final = frozenset({"", "auto", "headgate"})
"""Names for "whichever will do"; any other pins a model."""
LONGEST: Final = (1 << 20) - 1024
"""A gateway takes messages of up to 1 MiB; the rest is for what is around the query."""
_ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class LineError(Exception):
    """What is wrong with a line, and with which of its fields."""

    def __init__(self, field: str, told: str) -> None:
        super().__init__(f"{field}: {told}" if field else told)


@dataclass(frozen=True, slots=True)
class Frame:
    """What all lines of a file have in common."""

    batch: str
    job_class: JobClass
    within_s: int
    risk_target: float | None = None
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One that can be submitted."""

    number: int
    custom_id: str
    request: JobRequest

    @property
    def job_id(self) -> str:
        """The job's name."""
        return self.request.options["request_id"]


def name(batch: str, custom_id: str) -> str:
    """The job's name, the same each time: `custom_id` after the batch."""
    return f"{batch}:{safe(custom_id)}"


def safe(text: str, longest: int = 64) -> str:
    """As a part of a name: the text itself where it can be, else what can be of it, and a digest.

    >>> safe("task 7")
    'task_7-5cafbb95b4a9'
    """
    if 0 < len(text) <= longest and not _UNSAFE.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{_UNSAFE.sub('_', text)[: longest - 13]}-{digest}"


def parse(number: int, raw: bytes, frame: Frame) -> Line:
    """A line as a job; LineError names the field that is wrong."""
    line = _object("", _read(raw))
    custom_id = _text("custom_id", line.get("custom_id"))
    _fixed(line)
    body = _object("body", line.get("body"))
    options = _options(body)
    options["request_id"] = name(frame.batch, custom_id)
    if frame.risk_target is not None:
        options["risk_target"] = frame.risk_target
    turns = _turns(body.get("messages"))
    request = JobRequest(turns, frame.job_class, frame.batch, frame.within_s, options, frame.not_before)
    _check(request)
    return Line(number, custom_id, request)


def _read(raw: bytes) -> object:
    try:
        return json.loads(raw.rstrip())
    except UnicodeDecodeError:
        raise LineError("", "is not UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise LineError("", f"is not JSON{where}") from None


def _fixed(line: Mapping[str, Any]) -> None:
    for field, only in (("method", "POST"), ("url", URL)):
        if line.get(field, only) != only:
            raise LineError(field, f"must be {only}")
    unknown = sorted(set(line) - {"custom_id", "method", "url", "body"})
    if unknown:
        raise LineError(unknown[0], "no such field")


def _options(body: Mapping[str, Any]) -> Options:
    options: dict[str, Any] = {}
    for field, value in body.items():
        where = f"body.{field}"
        if field == "messages" or value is None:
            continue
        if field in _FIELDS:
            option, read = _FIELDS[field]
            options[option] = read(where, value)
        elif field not in _NEUTRAL:
            raise LineError(where, "is not supported")
        elif _NEUTRAL[field] not in (value, ...):
            raise LineError(where, f"can only be {json.dumps(_NEUTRAL[field])}")
    return cast(Options, options)


def _turns(messages: object) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise LineError("body.messages", "must be a list of messages")
    turns = [_turn(f"body.messages[{index}]", message) for index, message in enumerate(messages)]
    if turns[-1].role != "user":
        raise LineError(f"body.messages[{len(turns) - 1}].role", "the last message must be a user's")
    return turns


def _turn(where: str, message: object) -> Message:
    message = _object(where, message)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise LineError(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    unknown = sorted(key for key in message if key not in ("role", "content", "name") and message[key])
    if unknown:
        raise LineError(f"{where}.{unknown[0]}", "is not supported")
    return Message(_ROLES[role], _content(f"{where}.content", message.get("content")))


def _content(where: str, content: object) -> str:
    if not isinstance(content, list):
        return _text(where, content)
    pieces = [_object(f"{where}[{index}]", part) for index, part in enumerate(content)]
    for index, part in enumerate(pieces):
        if part.get("type") != "text":
            raise LineError(f"{where}[{index}].type", "only text is supported")
    return _text(where, "".join(_text(f"{where}.text", part.get("text")) for part in pieces))


def _check(request: JobRequest) -> None:
    """What the wire itself would refuse: a number beyond 64 bits, half a character, too long a message."""
    try:
        size = convert.to_submit(request).ByteSize()
    except (ValueError, TypeError):
        raise LineError("body", "holds a number or character that cannot be sent") from None
    if size > LONGEST:
        raise LineError("body", f"is {size:,} bytes long; {LONGEST:,} can be sent")


def _object(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise LineError(where, "must be an object" if where else "is not a JSON object")
    return value


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise LineError(where, "must be a text that is not empty")
    return value


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LineError(where, "must be a number")
    return value


def _whole(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise LineError(where, "must be a whole number")
    return value


def _texts(where: str, value: object) -> list[str]:
    if not isinstance(value, list):
        return [_text(where, value)]
    return [_text(f"{where}[{index}]", one) for index, one in enumerate(value)]


def _labels(where: str, value: object) -> Mapping[str, str]:
    return {key: _text(f"{where}.{key}", one) for key, one in _object(where, value).items()}


def _model(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise LineError(where, "must be a model's name, or auto")
    return "" if value in ROUTED else value


_FIELDS: Final[Mapping[str, tuple[str, Callable[[str, object], object]]]] = {
    "model": ("model", _model),
    "max_tokens": ("max_tokens", _whole),
    "max_completion_tokens": ("max_tokens", _whole),
    "temperature": ("temperature", _number),
    "top_p": ("top_p", _number),
    "seed": ("seed", _whole),
    "stop": ("stop", _texts),
    "metadata": ("metadata", _labels),
}
_NEUTRAL: Final[Mapping[str, object]] = {
    "n": 1,
    "stream": False,
    "logprobs": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "store": False,
    "user": ...,
}
"""Fields that change nothing with this value; `...` is any."""
