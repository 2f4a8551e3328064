"""Log lines wait for their reader; who writes them does not."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import pytest

from headgate.adapters.log_writer import MOST_WAITING, LogWriter

LINES = 4 * MOST_WAITING
LONG = "x" * 200
CANARY = "canary-7f3a"


@contextmanager
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    """A pipe's ends: for who reads, and for who writes."""
    reading, writing = os.pipe()
    reader, writer = os.fdopen(reading), os.fdopen(writing, "w")
    try:
        yield reader, writer
    finally:
        reader.close()  # First: what still waits to be written then fails instead of waiting on.
        with suppress(OSError):
            writer.close()


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("t", logging.INFO, "here.py", 1, text, arguments, None)


def test_a_reader_that_stalls_holds_up_nobody_and_what_it_misses_is_counted() -> None:
    with pipe() as (reader, writer):
        log = LogWriter(writer)
        for _ in range(LINES):
            log.handle(record(LONG))
        found: list[str] = []
        reading = threading.Thread(target=lambda: found.extend(reader))
        reading.start()
        while not any("dropped" in line for line in found):
            log.handle(record(LONG))
        log.close()
        writer.close()
        reading.join()
    dropped = sum(json.loads(line)["count"] for line in found if "dropped" in line)
    written = sum(LONG in line for line in found)
    assert written + dropped >= LINES
    assert MOST_WAITING <= written < LINES
    assert dropped > 0


def test_the_end_waits_for_no_reader_that_stalls() -> None:
    with pipe() as (_, writer):
        log = LogWriter(writer)
        for _ in range(LINES):
            log.handle(record(LONG))
        ending = threading.Thread(target=log.close)
        ending.start()
        ending.join(10)
        assert not ending.is_alive()


class Unprintable:
    def __str__(self) -> str:
        raise ValueError(CANARY)


def test_what_cannot_be_formatted_is_dropped_without_a_word_of_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pipe() as (reader, writer):
        log = LogWriter(writer)
        log.handle(record(f"{CANARY} %s", Unprintable()))
        log.handle(record("the next one"))
        log.close()
        writer.close()
        assert [json.loads(line)["count"] if "{" in line else line.strip() for line in reader] == [
            "the next one",
            1,
        ]
    assert CANARY not in "".join(capfd.readouterr())
