"""Hours of the day in which jobs run that can wait, such as those when a model is cheap or idle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Hours:
    """Spans of minutes since midnight, [begin, end); one that ends before it begins passes midnight.

    No span means always.
    """

    spans: tuple[tuple[int, int], ...] = ()
    zone: tzinfo = UTC

    @classmethod
    def of(cls, texts: tuple[str, ...], zone: str) -> Hours:
        """From `22:00-06:00` and the like, and a zone's name, such as `Europe/Berlin`. Raises ValueError."""
        try:
            # UTC is known everywhere, also where no zones are installed.
            there = UTC if zone == "UTC" else ZoneInfo(zone)
        except (KeyError, OSError, ValueError):
            raise ValueError(f"no time zone {zone!r} is known here") from None
        return cls(tuple(map(_span, texts)), there)

    def wait_s(self, now: float) -> float:
        """Seconds until they begin, 0 during them; `now` in POSIX seconds."""
        here = datetime.fromtimestamp(now, self.zone)
        if not self.spans or any(_within(here.hour * 60 + here.minute, span) for span in self.spans):
            return 0.0
        midnight = here.replace(hour=0, minute=0, second=0, microsecond=0)
        # By the clock on the wall: a day has 23 or 25 hours when the clocks change.
        begins = [
            (midnight + timedelta(days=day)).replace(hour=begin // 60, minute=begin % 60).timestamp()
            for begin, _ in self.spans
            for day in (0, 1, 2)
        ]
        return min(at - now for at in begins if at > now)


def _within(minute: int, span: tuple[int, int]) -> bool:
    begin, end = span
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def _span(text: str) -> tuple[int, int]:
    begin, dash, end = text.partition("-")
    found = _minute(begin), _minute(end) % DAY
    if not dash or found[0] == found[1] or found[0] == DAY:
        raise ValueError(f"{text!r} must be two times of day, such as 22:00-06:00")
    return found


def _minute(text: str) -> int:
    hour, _, minute = text.strip().partition(":")
    plain = len(minute) == 2 and (hour + minute).isascii() and (hour + minute).isdigit()
    found = int(hour) * 60 + int(minute) if plain and 0 < len(hour) <= 2 else DAY + 1
    if found > DAY or int(minute or 0) > 59:
        raise ValueError(f"{text.strip()!r} must be a time of day, such as 22:00")
    return found
