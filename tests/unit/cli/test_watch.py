"""What `ask --watch` shows of a stream, from a gateway that answers as the question asks it to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from rich.color import Color
from rich.style import Style

from headgate.cli import app, watch
from headgate.client import Delta
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2

Run = Callable[..., tuple[int, str, str]]
Event = router_pb2.StreamGenerateResponse
ESCAPE = "\x1b"
SURE, UNSURE = math.log(0.99), math.log(0.1)
CERTIFICATE = types_pb2.Certificate(
    id="c", loss="regret", risk_target=0.05, confidence=0.95, n=10, reference_model="large", window=300
)
FIRST = types_pb2.Decision(
    model="small",
    reason=types_pb2.REASON_POLICY,
    certificate=CERTIFICATE,
    estimates=[types_pb2.ModelEstimate(model="small", p_correct=0.9, spread=0.1)],
    **{"lambda": 0.25},
)
WHY = "The draft of small was stopped after 9 tokens as too doubtful, so large answers."


def last(model: str) -> types_pb2.Decision:
    """The final decision, on an answer of `model`."""
    small = types_pb2.Attempt(model="small", usage=types_pb2.Usage(completion_tokens=9))
    return types_pb2.Decision(
        model=model,
        drafted_by="small",
        reason=types_pb2.REASON_POLICY,
        explanation="It looks right.",
        attempts=[small],
    )


def piece(text: str, logprob: float, told: bool) -> router_pb2.Delta:
    return router_pb2.Delta(text=text, logprobs=[logprob] if told else [])


def switched(escalation: bool, watched: bool) -> router_pb2.ModelSwitched:
    shown = escalation and watched
    return router_pb2.ModelSwitched(
        from_model="small",
        to_model="large",
        escalation=escalation,
        explanation=WHY if escalation else "The model small failed, so large answers.",
        draft=[piece("4", SURE, True), piece("3", UNSURE, True)] if shown else [],
    )


class Gateway(router_pb2_grpc.RouterServiceServicer):
    """Escalates "doubtful", falls back at "failed", offers at "offered", cuts "half"; "kept" is bare."""

    def StreamGenerate(
        self, request: router_pb2.StreamGenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[Event]:
        question = request.query.messages[-1].parts[0].text
        told = request.watch and question != "kept"
        yield Event(decision=FIRST)
        if question in ("doubtful", "failed"):
            yield Event(model_switched=switched(question == "doubtful", request.watch))
        yield Event(delta=piece("4", SURE, told))
        if question == "offered":
            yield Event(escalation_offered=router_pb2.EscalationOffered(model="large", gain=0.25))
        yield Event(delta=piece("2\n[bold]", UNSURE, told))
        if question != "half":
            decision = last("small" if question == "accepted" else "large")
            reason = types_pb2.FINISH_REASON_STOP
            yield Event(finished=router_pb2.Finished(decision=decision, finish_reason=reason))


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `headgate ask`; its exit code, stdout and stderr."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        router_pb2_grpc.add_RouterServiceServicer_to_server(Gateway(), server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()

        def line(*arguments: str) -> tuple[int, str, str]:
            code = app.run(("ask", *arguments, "--address", address), {})
            out, err = capsys.readouterr()
            return code, out, err

        yield line
        server.stop(None).wait()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, ask: Run) -> Run:
    """As `ask`, where both streams pass for a terminal with colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    return ask


def bare(text: str) -> str:
    return re.sub(rf"{ESCAPE}\[[\d;]*m", "", text)


def styles(text: str, of: str) -> set[str]:
    """The codes in force where `of` stands."""
    return set(re.findall(rf"{ESCAPE}\[([\d;]*)m{re.escape(of)}", text))


def test_a_pipe_gets_the_answer_alone_and_no_escape_codes(ask: Run) -> None:
    code, out, err = ask("--watch", "doubtful")
    assert (code, out) == (0, "42\n[bold]\n")
    assert out == ask("doubtful")[1]
    assert ESCAPE not in err


def test_the_story_is_told_in_order(ask: Run) -> None:
    told = ask("--watch", "doubtful")[2].splitlines()
    assert told[:5] == [
        "small first · policy · p_correct 0.90 ± 0.10 · λ 0.25",
        "With 95 % confidence, at most 5 % of 300 requests lose quality against always using large.",
        "draft of small, not accepted: 4‹3›",
        f"→ large: {WHY}",
        "‹ › marks tokens with a probability below 60 %",
    ]
    assert told[5].startswith("large · policy · after a draft of small (9 tokens wasted) · ")
    assert len(told) == 6


def test_a_terminal_shows_an_abandoned_draft_dim_struck_through_and_tinted(terminal: Run) -> None:
    err = terminal("--watch", "doubtful")[2]
    (sure,), (unsure,) = styles(err, "4"), styles(err, "3")
    assert {"2", "9"} <= set(sure.split(";")) & set(unsure.split(";"))
    assert sure.endswith("38;5;28")
    assert unsure.endswith("38;5;160")
    assert bare(err).splitlines()[2] == "draft of small, not accepted: 43"


def test_a_terminal_shows_the_answer_tinted_and_says_what_tints_mean(terminal: Run) -> None:
    code, out, err = terminal("--watch", "easy")
    assert (code, bare(out)) == (0, "42\n[bold]\n")
    assert styles(out, "4") == {"38;5;28"}
    assert styles(out, "2") == {"4;38;5;160"}
    assert "probability of a token: ≥ 95 %  ≥ 80 %  ≥ 60 %  ≥ 40 %  less" in bare(err)


@pytest.mark.parametrize("how", ["NO_COLOR", "TERM"])
def test_a_terminal_without_colours_gets_marks_and_no_escape_codes(
    terminal: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv(how, {"NO_COLOR": "1", "TERM": "dumb"}[how])
    code, out, err = terminal("--watch", "easy")
    assert (code, out) == (0, "4‹2\n[bold]›\n")
    assert ESCAPE not in err


def test_an_answer_without_log_probabilities_is_shown_plain_and_without_a_legend(terminal: Run) -> None:
    code, out, err = terminal("--watch", "kept")
    assert (code, out) == (0, "42\n[bold]\n")
    assert "probability of a token" not in err


def test_of_an_accepted_draft_is_told_why_it_was_accepted(ask: Run) -> None:
    assert "\nIt looks right.\n" in ask("--watch", "accepted")[2]
    assert "It looks right." not in ask("--watch", "doubtful")[2]


def test_a_fallback_is_told_with_its_reason(ask: Run) -> None:
    assert ask("--watch", "failed")[2].splitlines()[2] == "→ large: The model small failed, so large answers."


def test_an_offer_is_told_after_the_answer_with_the_option_that_takes_it(ask: Run) -> None:
    _, out, err = ask("--watch", "offered")
    assert out == "42\n[bold]\n"
    sentence = "large is expected to do better (gain 0.25): --model large asks it."
    assert f"The policy came to doubt this answer after it had begun. {sentence}\n" in err


def test_a_broken_stream_ends_its_line_and_names_the_cut(ask: Run) -> None:
    code, out, err = ask("--watch", "half")
    assert (code, out) == (1, "42\n[bold]\n")
    assert err.splitlines()[-1].startswith("headgate: the stream")


def test_watching_and_json_exclude_each_other(ask: Run) -> None:
    sentence = "headgate: --watch is for people and --json for programs: give one of them\n"
    assert ask("--watch", "--json", "easy") == (1, "", sentence)


def test_without_watch_nothing_is_tinted_or_told(terminal: Run) -> None:
    code, out, err = terminal("doubtful")
    assert (code, out) == (0, "42\n[bold]\n")
    assert len(bare(err).splitlines()) == 1


def test_as_many_tokens_as_characters_are_tinted_one_by_one_and_the_end_token_shows_none() -> None:
    said = [("a", 1.0), ("b", pytest.approx(0.5))]
    assert list(watch.tokens(Delta("ab", (0.0, math.log(0.5))))) == said
    assert list(watch.tokens(Delta("ab", (0.0, math.log(0.5), -9.0)))) == said


def test_a_piece_whose_tokens_cannot_be_told_apart_has_their_mean_probability() -> None:
    assert list(watch.tokens(Delta("whole", (0.0, math.log(0.5))))) == [("whole", pytest.approx(0.75))]
    assert list(watch.tokens(Delta("whole"))) == [("whole", None)]


@pytest.mark.parametrize("ground", [0.0, 1.0])
def test_every_tint_can_be_read_on_black_and_on_white(ground: float) -> None:
    for _, style in watch.RAMP:
        colour = Style.parse(style).color
        assert colour is not None
        light, dark = sorted((_luminance(colour), ground), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3.2, style


def _luminance(colour: Color) -> float:
    """WCAG's relative luminance."""
    parts = [part / 255 for part in colour.get_truecolor()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_surer_the_greener_and_doubt_is_underlined_too() -> None:
    assert watch.style_of(1.0) == watch.style_of(0.95) != watch.style_of(0.9)
    assert watch.style_of(0.0) == watch.RAMP[-1][1]
    assert watch.style_of(None) == ""
    assert all(("underline" in style) == (least < watch.DOUBTFUL) for least, style in watch.RAMP)
