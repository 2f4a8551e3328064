"""One job at a time: submit, watch, list, get, cancel, dead, replay."""

from __future__ import annotations

import json
import signal
import threading
from datetime import UTC, datetime, timedelta

import pytest

from headgate.cli import app
from headgate.cli.jobs import shown
from headgate.client import Job
from headgate.v1 import jobs_pb2
from tests.unit.job_rig import serving


def test_help_teaches_with_examples(jobs):
    for command in ("submit", "watch", "list", "get", "cancel", "dead", "replay"):
        code, out, _ = jobs(command, "--help")
        assert code == 0
        assert f"headgate jobs {command}" in out


def test_a_job_waits_until_it_is_told_to(jobs, gateway):
    _, out, _ = jobs("submit", "in words", "--not-before", "2026-12-01T22:00+01:00")
    assert gateway.jobs[out.strip()].request.not_before.ToDatetime() == datetime(2026, 12, 1, 21)
    _, out, _ = jobs("submit", "in words", "--not-before", "22:00")
    told = gateway.jobs[out.strip()].request.not_before.ToDatetime(UTC).astimezone()
    assert (told.hour, told.minute, told.second) == (22, 0, 0)
    assert timedelta() < told - datetime.now(UTC) <= timedelta(days=1)
    _, out, _ = jobs("submit", "in words")
    assert not gateway.jobs[out.strip()].request.HasField("not_before")


@pytest.mark.parametrize("wrong", ["soon", "25:00", "22:61", "2026-13-01"])
def test_an_instant_that_is_none_is_named(jobs, gateway, wrong):
    code, _, err = jobs("submit", "in words", "--not-before", wrong)
    assert (code, gateway.jobs) == (1, {})
    assert "--not-before" in err


def test_a_question_is_named_on_stdout_and_its_answer_fetched(jobs, gateway):
    code, out, err = jobs("submit", "in words", "--class", "interactive", "--within", "60")
    [job_id] = gateway.jobs
    assert (code, out, err) == (0, f"{job_id}\n", "")
    kept = gateway.jobs[job_id].request
    assert (kept.job_class, kept.within_s) == (jobs_pb2.JOB_CLASS_INTERACTIVE, 60)
    code, out, err = jobs("get", job_id)
    assert (code, out) == (0, "words in\n")
    assert err == f"job {job_id} · done · interactive · 1 run · small · policy · $0.00000125\n"
    told = json.loads(jobs("get", job_id, "--json")[1])
    assert (told["state"], told["answer"]["text"], told["error"]) == ("done", "words in", None)
    assert told["answer"]["decision"]["cost_usd"] == 0.00000125
    assert told["created"].endswith("+00:00")


def test_a_question_that_is_waited_for_streams_its_answer(jobs):
    code, out, err = jobs("submit", "3 2 1", "--wait", "--model", "large")
    assert (code, out) == (0, "1 2 3\n")
    assert [line.split(" · ")[1] for line in err.splitlines()] == ["queued", "running", "done"]
    assert "large" in err
    code, out, _ = jobs("submit", "3 2 1", "--wait", "--json")
    assert json.loads(out)["answer"]["text"] == "1 2 3"
    code, out, err = jobs("submit", "fail", "--wait")
    assert (code, out) == (1, "")
    assert "failed" in err
    assert "not in the pool" in err


def test_watching_shows_each_run_by_itself(jobs, gateway):
    jobs("submit", "wait")
    [(job_id, kept)] = gateway.jobs.items()
    gateway.run(job_id, "2 1")
    kept.events.pop()
    kept.job.Clear()
    kept.become(jobs_pb2.JOB_STATE_QUEUED)
    gateway.run(job_id, "4 3")
    code, out, err = jobs("watch", job_id)
    assert (code, out) == (0, "1 2\n3 4\n")
    assert "that run did not come to its end" in err
    code, out, err = jobs("watch", "none")
    assert (code, out, err) == (1, "", "headgate: no job none\n")


def test_ctrl_c_leaves_a_watch_without_a_word_and_the_job_alone(jobs, gateway, started):
    jobs("submit", "wait")
    [(job_id, kept)] = gateway.jobs.items()
    kept.note(answer={"delta": {"text": "half"}})

    with started("watch", job_id) as process:
        assert process.stdout.read(4) == "half"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (app.INTERRUPTED, "\n")
    assert err == f"job {job_id} · queued · batch\n"
    assert kept.job.state == jobs_pb2.JOB_STATE_QUEUED


def test_a_list_shows_model_and_cost_of_what_is_done(jobs, gateway):
    for question in ("1 2", "fail", "wait"):
        jobs("submit", question, "--batch", "b")
    jobs("submit", "1 2")
    code, out, _ = jobs("list", "--batch", "b")
    assert code == 0
    rows = [row.split() for row in out.splitlines() if row.split() and row.split()[0] in gateway.jobs]
    assert [row[1] for row in rows] == ["queued", "failed", "done"], "names can be copied"
    assert rows[2][-2:] == ["small", "$0.00000125"]
    assert rows[0][-1] == "0"
    code, out, err = jobs("list", "--limit", "1")
    assert sum(name in out for name in gateway.jobs) == 1
    assert err == "the newest 1; --limit 0 shows all\n"
    lines = jobs("list", "--json", "--limit", "2")[1].splitlines()
    assert [json.loads(line)["batch"] for line in lines] == ["", "b"]


def test_cancel_dead_and_replay(jobs, gateway):
    jobs("submit", "wait")
    [waiting] = gateway.jobs
    code, _, err = jobs("cancel", waiting)
    assert (code, err) == (0, f"job {waiting} · cancelled · batch\n")
    for _ in range(3):
        jobs("submit", "die")
    dead = [name for name in gateway.jobs if name != waiting]
    assert "no worker could be reached" in jobs("dead")[1]
    assert [json.loads(line)["job_id"] for line in jobs("dead", "--json")[1].splitlines()] == dead[::-1]
    assert jobs("replay", dead[0])[2] == f"job {dead[0]} · queued · batch\n"
    assert jobs("replay", "--all")[2] == "2 dead jobs queued again\n"
    assert jobs("dead")[1:] == ("", "no jobs\n")
    assert "stays as it is" in jobs("replay", waiting)[2]
    jobs("submit", "1 2")
    assert "nothing was cancelled" in jobs("cancel", list(gateway.jobs)[-1])[2]
    assert jobs("dead", "--json")[1] == ""
    assert jobs("replay") == (1, "", "headgate: which? Give a dead job's name, or --all\n")


@pytest.mark.parametrize("arguments", [("submit", "hi"), ("watch", "j"), ("list",), ("replay", "--all")])
def test_a_gateway_whose_jobs_are_off_is_one_sentence(capsys, arguments):
    with serving() as address:
        assert app.run(("jobs", *arguments, "--address", address), {}) == 1
    assert capsys.readouterr().err == (
        "headgate: this gateway's jobs are off: set jobs.enabled in its config\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("hi", "--file", "x.jsonl"), "give a question or --file, not both"),
        (("--file", "x.jsonl", "--json"), "--model and --json are for one question"),
        (("--file", "x.jsonl", "--wait"), "--wait with --file needs --out"),
        (("--file", "x.jsonl", "--out", "r.jsonl"), "--out takes the results of --file with --wait"),
        (("--file", "x.jsonl"), "--file: x.jsonl cannot be read: No such file or directory"),
        (("hi", "--batch", "a b"), "--batch is 1 to 48 letters"),
        ((" ",), "the question is empty"),
    ],
)
def test_what_cannot_be_submitted_names_the_option(jobs, arguments, expected):
    code, out, err = jobs("submit", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"headgate: {expected}")


def test_a_watch_begins_before_its_job_has_ended(jobs, gateway):
    jobs("submit", "wait")
    [job_id] = gateway.jobs
    timer = threading.Timer(0.2, gateway.run, (job_id, "2 1"))
    timer.start()
    assert jobs("watch", job_id)[:2] == (0, "1 2\n")
    timer.join()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s"), (42, "42 s"), (119, "119 s"), (121, "2 min"), (7_300, "2 h"), (9**6, "6 d")],
)
def test_ages_are_short(seconds, said):
    now = datetime(2026, 11, 28, tzinfo=UTC)
    created = now - timedelta(seconds=seconds)
    job = Job("j", "queued", "batch", "", created, None, None, 0, None, None)
    assert shown.age(job, now) == said
