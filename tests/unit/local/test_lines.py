from __future__ import annotations

import json

from headgate.local.lines import readable


def test_a_json_record_becomes_one_readable_line():
    record = {
        "event": "serving",
        "level": "info",
        "timestamp": "2026-11-23T15:33:20.1Z",
        "model": "small",
        "n": 3,
    }
    assert readable(json.dumps(record)) == "15:33:20 info    serving  model=small n=3"


def test_what_is_no_record_stays_as_it_is():
    for line in ("plain words", "[1, 2]", '{"no": "event"}', "17", ""):
        assert readable(line) == line


def test_a_warning_about_saving_says_nothing_about_a_server_that_never_saves():
    assert readable("1:M # WARNING Memory overcommit must be enabled! Without it, …") == ""
