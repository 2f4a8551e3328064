"""The questions of the front pages and of `--help`: each is sent to a model that answers it rightly."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from headgate.cli import app, ask, route, up
from headgate.router import accept
from headgate.router.decide import decide
from headgate.router.types import Objective, Query
from headgate.worker.backends.builtin.engine import Engine
from tests.bench.certificate import draft, shipped_bundle, shipped_pool

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/quickstart.md")
GUIDES = ("docs/howto/reuse-answers.md",)
CODE = (app, ask, route, up)
ASKED = (
    r'headgate (?:ask|route)(?: --?[a-z-]+(?: \w+)?)* "([^"]+)"',
    r'client\.(?:generate|stream)\("([^"]+)"',
    r'Part\(text="([^"]+)"',
    r'echo "([^"]+)" \| headgate ask',
    r'headgate ask \{flag\}"([^"]+)"',
)
ANSWERS = {
    "4711 in words": ("small", "four thousand seven hundred eleven"),
    "Sort up: 27 20 38 68": ("large", "20 27 38 68"),
    "Reverse stressed": ("large", "desserts"),
    "Spell backgrounds": (
        "small",
        "bravo alfa charlie kilo golf romeo oscar uniform november delta sierra",
    ),
}
NO_WORKSHEET = {"Who wrote Hamlet?", "What does a ticket to Oslo cost?"}


def _asked(text: str) -> set[str]:
    return {html.unescape(question) for pattern in ASKED for question in re.findall(pattern, text)}


TEXTS = {page: (ROOT / page).read_text() for page in (*PAGES, *GUIDES)} | {
    module.__name__: Path(module.__file__ or "").read_text() for module in CODE
}


@pytest.mark.parametrize("where", TEXTS)
def test_each_place_asks_only_what_is_known_here(where: str) -> None:
    asked = _asked(TEXTS[where])
    assert asked, "the pattern finds nothing any more"
    assert asked <= set(ANSWERS) | NO_WORKSHEET


@pytest.mark.parametrize("where", PAGES)
def test_each_page_has_one_for_each_model(where: str) -> None:
    models = {ANSWERS[question][0] for question in _asked(TEXTS[where]) if question in ANSWERS}
    assert models == {"small", "large"}


@pytest.mark.parametrize("question", ANSWERS)
def test_the_chosen_model_is_right_at_the_default_risk_target(question: str) -> None:
    bundle = shipped_bundle()
    asked = Query(question, Objective(risk_target=bundle.default_risk_target))
    made = decide(bundle, asked, shipped_pool(), now=0.0)
    if made.prior is not None:
        [written] = Engine.load(made.model).answer_batch([question])
        made = accept.read(bundle, question, made, draft(made.model, written))
    assert (made.model, Engine.load(made.model).answer_batch([question])[0].text) == ANSWERS[question]
