"""The shipped bundle's certificate against fresh worksheets: does what it promises hold?

Every worksheet is answered by both models of the built-in pair and decided upon by the shipped bundle, in one
process; the demo shows the same through the whole gateway.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from random import Random

from headgate.router import accept
from headgate.router import bundle as bundles
from headgate.router.bundle import Bundle
from headgate.router.cost import call_cost
from headgate.router.decide import decide
from headgate.router.types import Certificate, Draft, Model, Objective, Pool, Price, Query
from headgate.worker.backends.builtin.engine import MODELS, Completion, Engine, model_version
from headgate.worker.backends.builtin.worksheets import Worksheet, check

CHEAPEST, REFERENCE = MODELS


@dataclass(frozen=True, slots=True)
class Routed:
    """One worksheet: did the reference have it right, did the chosen model, and was the decision covered?"""

    reference_right: bool
    chosen_right: bool
    covered: bool
    cheapest_right: bool = False
    reference_cost: int = 0
    chosen_cost: int = 0
    cheapest_cost: int = 0
    """Costs in nano-dollars."""

    @property
    def regret(self) -> bool:
        """Quality was lost against always using the reference."""
        return self.covered and self.reference_right and not self.chosen_right


@dataclass(frozen=True, slots=True)
class Promise:
    """What the bundle promises by default, and the share of worksheets that broke it, window by window."""

    risk_target: float
    confidence: float
    regrets: tuple[float, ...]

    @property
    def held(self) -> int:
        """Windows whose regret stayed within the risk target."""
        return sum(regret <= self.risk_target for regret in self.regrets)


def shipped_bundle() -> Bundle:
    """The bundle in the package."""
    return bundles.load(resources.files("headgate.gateway").joinpath("bundles/builtin.bundle").read_bytes())


def default_certificate(bundle: Bundle) -> Certificate:
    """The certificate that an objective-less request rests on."""
    return next(c for c in bundle.certificates if c.risk_target == bundle.default_risk_target)


def shipped_pool() -> Pool:
    """The built-in pair as a gateway sees it."""
    folder = resources.files("headgate.worker.backends.builtin").joinpath("weights")
    manifest = json.loads(folder.joinpath("manifest.json").read_text())
    return Pool(tuple(_model(name, manifest[name]) for name in MODELS), REFERENCE)


def _model(name: str, entry: dict[str, dict[str, int]]) -> Model:
    price = Price(entry["price"]["input_nanousd"], entry["price"]["output_nanousd"])
    return Model(name, price, version=model_version(str(entry["sha256"])), logprobs=True)


def route(sheets: Sequence[Worksheet], bundle: Bundle, risk_target: float) -> list[Routed]:
    """Answers and decides every worksheet; drafts are read as the gateway reads them."""
    pool, objective = shipped_pool(), Objective(risk_target=risk_target)
    right, cost, drafts = {}, {}, {}
    for model in pool.models:
        answers = Engine.load(model.name).answer_batch([sheet.question for sheet in sheets])
        drafts[model.name] = [draft(model.name, one) for one in answers]
        right[model.name] = [
            check(sheet, one.text) == 1.0 for sheet, one in zip(sheets, answers, strict=True)
        ]
        cost[model.name] = [
            call_cost(model.price, one.prompt_tokens, one.completion_tokens) for one in answers
        ]
    decisions = []
    for index, sheet in enumerate(sheets):
        made = decide(bundle, Query(sheet.question, objective), pool, now=0.0)
        if made.prior is not None:
            made = accept.read(bundle, sheet.question, made, drafts[made.model][index])
        decisions.append(made)
    return [
        Routed(
            right[REFERENCE][index],
            right[made.model][index],
            made.certificate is not None,
            right[CHEAPEST][index],
            cost[REFERENCE][index],
            cost[made.model][index] + (cost[made.drafted_by][index] if made.escalated else 0),
            cost[CHEAPEST][index],
        )
        for index, made in enumerate(decisions)
    ]


def draft(model: str, answer: Completion) -> Draft:
    finished = answer.finish_reason == "stop"
    return Draft(model, answer.text, finished, tokens=answer.completion_tokens, logprobs=answer.logprobs)


def promise(routed: Sequence[Routed], bundle: Bundle, windows: int, seed: int) -> Promise:
    """The default promise on windows resampled from the routed worksheets; `make results` draws fresh ones."""
    certificate = default_certificate(bundle)
    rng = Random(seed)
    drawn = (rng.choices(routed, k=certificate.window) for _ in range(windows))
    regrets = tuple(sum(one.regret for one in window) / len(window) for window in drawn)
    return Promise(certificate.risk_target, certificate.confidence, regrets)
