"""One log line of a child, made readable: JSON becomes `12:00:01 info  serving  model=small`."""

from __future__ import annotations

import json

# It warns of background saves that fail; a server that keeps nothing never makes one.
_NOISE = "Memory overcommit must be enabled"


def readable(line: str) -> str:
    """The line for people, empty when it says nothing; one that is not JSON stays as it is."""
    if _NOISE in line:
        return ""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or "event" not in record:
        return line
    clock = str(record.pop("timestamp", ""))[11:19]
    level, event = str(record.pop("level", "")), str(record.pop("event"))
    rest = " ".join(f"{key}={value}" for key, value in sorted(record.items()))
    return f"{clock} {level:<7} {event}  {rest}".strip()
