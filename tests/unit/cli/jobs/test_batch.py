"""Lines of a batch file: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import json
import re

import pytest

from headgate.cli.jobs import batch
from headgate.cli.jobs.batch import Frame, LineError
from headgate.client import Message

FRAME = Frame("evening", "batch", 0)
USER = [{"role": "user", "content": "hi"}]


def written(**body: object) -> bytes:
    line = {"custom_id": "q", "method": "POST", "url": batch.URL, "body": {"messages": USER} | body}
    return json.dumps(line).encode()


def test_a_line_says_all_that_it_says():
    line = batch.parse(
        3,
        written(
            model="auto",
            messages=[
                {"role": "developer", "content": "be short"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "4711 "}, {"type": "text", "text": "?"}],
                },
            ],
            max_completion_tokens=5,
            temperature=0,
            stop="x",
            seed=7,
            top_p=None,
            n=1,
            stream=False,
            user="me",
            metadata={"a": "b"},
        ),
        FRAME,
    )
    assert (line.number, line.custom_id, line.job_id) == (3, "q", "evening:q")
    assert line.request.conversation == [Message("system", "be short"), Message("user", "4711 ?")]
    assert line.request.options == {
        "model": "",
        "max_tokens": 5,
        "temperature": 0,
        "stop": ["x"],
        "seed": 7,
        "metadata": {"a": "b"},
        "request_id": "evening:q",
    }


@pytest.mark.parametrize(("model", "pinned"), [("auto", ""), ("headgate", ""), ("", ""), ("large", "large")])
def test_a_model_s_name_pins_it(model, pinned):
    assert batch.parse(1, written(model=model), FRAME).request.options["model"] == pinned


def test_a_risk_target_is_every_line_s():
    frame = Frame("evening", "interactive", 60, 0.1)
    request = batch.parse(1, written(), frame).request
    assert (request.options["risk_target"], request.job_class, request.within_s) == (0.1, "interactive", 60)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"{", "is not JSON at character 2"),
        (b"\xff", "is not UTF-8"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "custom_id: must be a text that is not empty"),
        (b'{"custom_id": "q", "url": "/v1/embeddings"}', "url: must be /v1/chat/completions"),
        (b'{"custom_id": "q", "method": "GET"}', "method: must be POST"),
        (b'{"custom_id": "q", "boddy": {}}', "boddy: no such field"),
        (b'{"custom_id": "q"}', "body: must be an object"),
        (written(messages=[]), "body.messages: must be a list of messages"),
        (written(messages=["hi"]), "body.messages[0]: must be an object"),
        (written(messages=[{"role": "robot"}]), "body.messages[0].role: must be one of system"),
        (written(messages=[{"role": "system", "content": "x"}]), "body.messages[0].role: the last message"),
        (written(messages=[{"role": "user", "content": ""}]), "body.messages[0].content: must be a text"),
        (
            written(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "body.messages[0].content[0].type: only text is supported",
        ),
        (
            written(messages=[{"role": "assistant", "content": "x", "tool_calls": [1]}, *USER]),
            "body.messages[0].tool_calls: is not supported",
        ),
        (written(temperature="hot"), "body.temperature: must be a number"),
        (written(max_tokens=1.5), "body.max_tokens: must be a whole number"),
        (written(seed=True), "body.seed: must be a whole number"),
        (written(stop=["a", 1]), "body.stop[1]: must be a text"),
        (written(model=7), "body.model: must be a model's name, or auto"),
        (written(metadata={"a": 1}), "body.metadata.a: must be a text"),
        (written(n=2), "body.n: can only be 1"),
        (written(stream=True), "body.stream: can only be false"),
        (written(tools=[]), "body.tools: is not supported"),
        (written(seed=1 << 70), "body: holds a number or character that cannot be sent"),
        (written(messages=[{"role": "user", "content": "\ud800"}]), "body: holds a number or character"),
        (written(messages=[{"role": "user", "content": "x" * (1 << 20)}]), "body: is 1,048,"),
    ],
)
def test_a_bad_line_names_its_field(raw, told):
    with pytest.raises(LineError, match=f"^{re.escape(told)}"):
        batch.parse(1, raw, FRAME)


def test_names_are_safe_short_and_never_the_same_for_two():
    ids = ["q-1", "q 1", "q_1", "q:1", "ü", "x" * 64, "x" * 65, "x" * 66, "\ud800", "../../etc"]
    names = [batch.name("b" * 48, custom_id) for custom_id in ids]
    assert len(set(names)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", name) for name in names)
    assert batch.name("b", "q-1") == "b:q-1"
    assert batch.name("a", "b:c") != batch.name("a:b", "c")
