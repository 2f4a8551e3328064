"""A file of jobs in, a file of results out."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from headgate.cli import app
from headgate.cli.jobs import wait
from headgate.client.jobs import patience
from headgate.v1 import jobs_pb2


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "FIRST_S", 0.01)
    monkeypatch.setattr(wait, "SHARE", 0)
    monkeypatch.setattr(patience, "FIRST_S", 0.001)


def line(custom_id: str, text: str, **body: object) -> str:
    messages = [{"role": "user", "content": text}]
    told = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps(told | {"body": {"messages": messages} | body})


def write(*lines: str, name: str = "evening.jsonl") -> None:
    Path(name).write_text("\n".join(lines) + "\n")


def results(name: str = "out.jsonl") -> dict[str, dict]:
    told = [json.loads(one) for one in Path(name).read_text().splitlines()]
    assert len({one["custom_id"] for one in told}) == len(told)
    return {one["custom_id"]: one for one in told}


WAIT = ("submit", "--file", "evening.jsonl", "--wait", "--out", "out.jsonl")


def test_lines_in_and_results_out(jobs, gateway):
    write(line("a", "2 1", model="auto"), "", line("b b", "ä 2", model="large", max_tokens=9))
    code, out, err = jobs(*WAIT)
    assert (code, out) == (0, "")
    assert err.splitlines()[0] == "2 jobs in batch evening"
    assert err.splitlines()[-1] == "2 results in out.jsonl"
    told = results()
    assert set(told) == {"a", "b b"}
    assert told["a"]["error"] is None
    assert told["a"]["id"] == "evening:a"
    response = told["b b"]["response"]
    assert (response["status_code"], response["request_id"]) == (200, told["b b"]["id"])
    assert response["body"]["object"] == "chat.completion"
    assert response["body"]["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "2 ä"}, "finish_reason": "stop"}
    ]
    assert response["body"]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert response["body"]["headgate"] == {
        "model": "large",
        "reason": "policy",
        "finish_reason": "stop",
        "cost_usd": 0.00000125,
        "certificate": "c-1",
    }
    assert gateway.jobs["evening:a"].request.batch_id == "evening"


def test_bad_lines_are_named_and_the_others_go_on(jobs, gateway):
    write(
        line("a", "2 1"),
        "{",
        line("c", "hi", temperature="hot"),
        line("d", "hi", temperature=3),
        line("a", "again"),
        line("f", "4 3"),
    )
    code, out, err = jobs("submit", "--file", "evening.jsonl")
    assert (code, out) == (1, "")
    assert sorted(err.splitlines()) == [
        "2 jobs in batch evening, 4 bad lines",
        "evening.jsonl:2: is not JSON at character 2",
        "evening.jsonl:3: body.temperature: must be a number",
        "evening.jsonl:4: body.temperature: must be at most 2",
        "evening.jsonl:5: custom_id: is that of line 1 too",
    ]
    assert set(gateway.jobs) == {"evening:a", "evening:f"}


def test_the_same_file_again_is_harmless_and_another_one_is_told(jobs, gateway):
    write(line("a", "2 1"), line("b", "4 3"))
    assert jobs("submit", "--file", "evening.jsonl")[0] == 0
    assert jobs("submit", "--file", "evening.jsonl")[0] == 0
    assert len(gateway.jobs) == 2
    write(line("a", "2 1"), line("b", "other"))
    code, _, err = jobs("submit", "--file", "evening.jsonl")
    assert code == 1
    assert err.startswith(
        "evening.jsonl:2: custom_id: the batch has another query of that name: give --batch"
    )
    assert jobs("submit", "--file", "evening.jsonl", "--batch", "second")[0] == 0
    assert len(gateway.jobs) == 4


def test_results_go_on_after_what_is_there(jobs, gateway):
    write(*(line(f"q{number}", f"{number} is") for number in range(20)))
    assert jobs(*WAIT)[0] == 0
    whole = Path("out.jsonl").read_bytes()
    kept = b"".join(whole.splitlines(keepends=True)[:7])
    Path("out.jsonl").write_bytes(kept + b'{"custom_id": "q1')  # stopped in the middle of a line
    there = set(results_of(kept))
    gateway.jobs.clear()
    code, _, err = jobs(*WAIT)
    assert code == 0
    assert "13 jobs in batch evening, 7 with an answer already" in err
    assert set(gateway.jobs) == {f"evening:q{number}" for number in range(20)} - {
        f"evening:{one}" for one in there
    }
    assert Path("out.jsonl").read_bytes().startswith(kept)
    assert len(results()) == 20
    assert jobs(*WAIT)[0] == 0
    assert len(results()) == 20


def test_a_line_that_came_to_an_error_is_asked_for_again(jobs, gateway):
    write(line("a", "2 1"), line("bad", "die"))
    assert jobs(*WAIT)[0] == 1
    assert jobs(*WAIT)[0] == 1, "it has no answer yet"
    assert list(results()) == ["a", "bad"]
    jobs("replay", "--all")
    gateway.run("evening:bad", "4 3")
    assert jobs(*WAIT)[0] == 0
    assert results()["bad"]["response"]["body"]["choices"][0]["message"]["content"] == "3 4"
    assert list(results()) == ["a", "bad"]
    assert not list(Path().glob(".out*"))


def test_another_batch_of_the_same_file_is_answered_anew(jobs, gateway):
    write(line("a", "2 1"))
    assert jobs(*WAIT)[0] == 0
    assert jobs(*WAIT, "--batch", "second")[0] == 0
    assert set(gateway.jobs) == {"evening:a", "second:a"}
    told = [json.loads(one)["id"] for one in Path("out.jsonl").read_text().splitlines()]
    assert told == ["evening:a", "second:a"]


def results_of(raw: bytes) -> list[str]:
    return [json.loads(one)["custom_id"] for one in raw.splitlines()]


def test_what_ends_is_written_while_the_rest_waits(jobs, gateway):
    write(line("slow", "wait"), line("a", "2 1"), line("gone", "wait"), line("bad", "die"))

    def later() -> None:
        while not Path("out.jsonl").exists() or len(Path("out.jsonl").read_text().splitlines()) < 2:
            time.sleep(0.01)
        del gateway.jobs["evening:gone"]
        gateway.run("evening:slow", "1 0")

    thread = threading.Thread(target=later)
    thread.start()
    code, _, err = jobs(*WAIT)
    thread.join()
    told = results()
    assert code == 1
    assert list(told)[-1] == "slow"
    assert told["slow"]["response"]["body"]["choices"][0]["message"]["content"] == "0 1"
    assert told["bad"]["response"] is None
    assert told["bad"]["error"] == {
        "code": "UNAVAILABLE",
        "message": "given up after 5 runs: no worker could be reached",
        "state": "dead",
    }
    assert "gone" not in told
    assert "gone: the gateway does not know this job any more: submit the file again" in err
    assert "bad: dead: given up after 5 runs" in err


def test_thousands_of_lines_go_through_over_broken_calls(jobs, gateway):
    gateway.cuts = 5
    write(*(line(f"q{number}", "2 1") for number in range(1_500)))
    assert jobs(*WAIT)[0] == 0
    assert len(results()) == len(gateway.jobs) == 1_500
    assert gateway.most_unanswered <= 128


def test_ctrl_c_while_waiting_says_how_to_go_on(started):
    write(line("a", "wait"), line("b", "2 1"))
    with started(*WAIT) as process:
        while not Path("out.jsonl").exists() or not Path("out.jsonl").read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == app.INTERRUPTED
    assert "the same command goes on from here" in err
    assert list(results()) == ["b"]


def test_a_file_that_holds_something_else_is_not_written_to(jobs):
    write(line("a", "2 1"))
    Path("out.jsonl").write_text("my notes\n")
    code, _, err = jobs(*WAIT)
    assert code == 1
    assert err == "headgate: out.jsonl:1: is no line of results: give --out another file\n"
    assert Path("out.jsonl").read_text() == "my notes\n"


def test_a_cancelled_job_has_a_line_too(jobs, gateway):
    write(line("a", "wait"))
    assert jobs("submit", "--file", "evening.jsonl")[0] == 0
    gateway.jobs["evening:a"].become(jobs_pb2.JOB_STATE_CANCELLED)
    assert jobs(*WAIT)[0] == 1
    assert results()["a"]["error"]["code"] == "CANCELLED"
