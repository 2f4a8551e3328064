"""Bundles whose every number is known: the graph is written by hand, nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from headgate.router.bundle import Contents
from headgate.router.calibrate import Calibrator
from headgate.router.cost import CostModel, ModelCost
from headgate.router.evidence import NUMBERS
from headgate.router.features import BUCKETS, CONTEXT_BUCKETS, SURFACE, Familiarity
from headgate.router.offline import graph
from headgate.router.offline.graph import Weights
from headgate.router.policy import Policy
from headgate.router.reader import ReaderContents
from headgate.router.types import Certificate, Objective, Price, Query

SMALL, LARGE = Price(10_000_000, 40_000_000), Price(60_000_000, 240_000_000)
GRID = (0.0, 0.05, 0.1, 0.5, 4.0)


def weights(easy: float = 3.0, per_digit: float = 2.0, tokens: float = 10.0) -> Weights:
    """Logit of small: easy - per_digit · d, d = log(1 + digits); of large: 2. Tokens: `tokens` and 5.

    Variance of the logits: 0.25 of small and 0 of large, and 0.1² + (0.1 d)² more. N-grams add thousandths.
    """
    table = np.zeros((BUCKETS, 7), dtype=np.float16)
    table[1:, 0] = 0.001 * (np.arange(1, BUCKETS) % 7 - 3)
    table[1:, 4], table[1:, 6] = 0.25, 1.0
    digits = SURFACE.index("digits")
    surface = np.zeros((len(SURFACE), 4), dtype=np.float32)
    surface[digits, 0] = -per_digit
    bias = np.array((easy, 2.0, np.log(tokens), np.log(5.0)), dtype=np.float32)
    root, root_bias = np.zeros((len(SURFACE),) * 2, dtype=np.float32), np.zeros(len(SURFACE), np.float32)
    root[digits, 1] = root_bias[0] = 0.1
    return Weights(table, surface, bias, root, root_bias)


def certificate(risk_target: float = 0.05, lam: float = 0.1, **changes: Any) -> Certificate:
    plain = Certificate(
        id=f"c{risk_target}",
        loss="regret",
        risk_target=risk_target,
        confidence=0.95,
        lam=lam,
        n=1000,
        data_fingerprint="0" * 64,
        created=0.0,
        reference="large",
        models=("small@s1", "large@l1"),
        settings={
            "max_temperature": 0.0,
            "max_prompt_tokens": 40.0,
            "max_system_bytes": 0.0,
            "max_history_turns": 0.0,
            "min_max_tokens": 20.0,
            "max_out_of_distribution": 0.5,
        },
    )
    return replace(plain, **changes)


def familiar_with(everything: bool) -> Familiarity:
    """Knows every word or none; any surface is near."""
    s, bits = len(SURFACE), np.full(CONTEXT_BUCKETS // 8, 255 * everything, dtype=np.uint8)
    return Familiarity(bits, np.zeros(s, dtype=np.float32), np.zeros((s, s), dtype=np.float32))


def contents() -> Contents:
    built = graph.build(weights())
    usage = np.zeros((len(GRID), 2, 2))
    share_large = np.linspace(1.0, 0.0, len(GRID))
    usage[:, 0], usage[:, 1] = (1 - share_large)[:, None] * (30, 10), share_large[:, None] * (30, 5)
    return Contents(
        graph=built,
        calibrators=(Calibrator("platt", 1.0, 1.0, 0.0), Calibrator("platt", 1.0, 1.0, 0.0)),
        costs=CostModel((ModelCost(SMALL, 4.0, 10.0), ModelCost(LARGE, 4.0, 5.0)), 3_000.0),
        familiarity=familiar_with(everything=True),
        policy=Policy(("small", "large"), "large", 0.0, 0.5, GRID, usage, 0.5, 0.05),
        golden=graph.golden_vectors(built, 2),
        certificates=(certificate(0.02, 0.05), certificate(0.05, 0.1)),
        notes={"seed": 0},
    )


def reader(logprobs: bool = False, left: float | None = None) -> ReaderContents:
    """Small is right (logit 4) unless an equation of its draft fails (logit -4); large's logit stays 2."""
    numbers = len(NUMBERS) + 3
    table = np.zeros((BUCKETS, 7), dtype=np.float16)
    table[1:, 6] = 1.0
    surface = np.zeros((numbers, 4), dtype=np.float32)
    surface[NUMBERS.index("an_equation_fails"), 0] = -8.0
    bias = np.array((4.0, 2.0, 0.0, 0.0), dtype=np.float32)
    none = np.zeros((numbers, numbers), dtype=np.float32)
    built = graph.build(Weights(table, surface, bias, none, none[0]))
    lines = (Calibrator("platt", 1.0, 1.0, 0.0), Calibrator("platt", 1.0, 1.0, 0.0))
    return ReaderContents("small", built, lines, graph.golden_vectors(built, 2, numbers), logprobs, left)


def reading(resolution: float = 0.5, logprobs: bool = False, **changes: Any) -> Contents:
    """Contents with changes, of a bundle that reads small's drafts; `logprobs` reads none without them."""
    plain = replace(contents(), **changes)
    reads = replace(plain.policy, resolution=(resolution, 0.0))
    return replace(plain, policy=reads, readers=(reader(logprobs), reader(logprobs, left=0.3)))


def shortened(whole: Contents, *windows: int) -> Contents:
    """With a policy for each of these shorter hold-backs, which has the same certificates."""
    usual = whole.policy.resolution
    policies = [replace(whole.policy, hold_back=one, resolution=usual if one else ()) for one in windows]
    more = [
        replace(one, id=f"{one.id}-{w}", settings={**one.settings, "hold_back": float(w)})
        for w in windows
        for one in whole.certificates
    ]
    return replace(whole, shorter=tuple(policies), certificates=(*whole.certificates, *more))


def three(resolution: float = 0.9, logprobs: bool = False, **changes: Any) -> Contents:
    """Contents with changes of a pool of three: small and mid are right half of the time, large oftener.

    Drafts of small and mid are read, each as small's by `reader`: right unless an equation fails.
    """
    names = ("small", "mid", "large")
    built = graph.build(_constant((0.0, 0.0, 3.0), len(SURFACE)))
    line, plain = Calibrator("platt", 1.0, 1.0, 0.0), contents()
    costs = CostModel((ModelCost(SMALL, 4.0, 10.0),) * 2 + (ModelCost(LARGE, 4.0, 5.0),), 3_000.0)
    usage = np.zeros((len(GRID), 3, 2))
    told = (resolution, resolution, 0.0)
    made = replace(
        plain,
        graph=built,
        calibrators=(line,) * 3,
        costs=costs,
        policy=Policy(names, "large", 0.0, 0.5, GRID, usage, 0.5, 0.05, told),
        golden=graph.golden_vectors(built, 3),
        certificates=(certificate(models=names),),
        readers=tuple(_of_three(names, index, logprobs) for index in (0, 1)),
    )
    return replace(made, **changes)


def _of_three(names: tuple[str, ...], index: int, logprobs: bool) -> ReaderContents:
    numbers = len(NUMBERS) + 4
    logits = tuple(4.0 if one == index else 0.0 for one in range(2))
    built_of = _constant((*logits, 3.0), numbers)
    built_of.surface[NUMBERS.index("an_equation_fails"), index] = -8.0
    built = graph.build(built_of)
    line = Calibrator("platt", 1.0, 1.0, 0.0)
    return ReaderContents(names[index], built, (line,) * 3, graph.golden_vectors(built, 3, numbers), logprobs)


def _constant(logits: tuple[float, ...], numbers: int) -> Weights:
    """The same of every query, 10 tokens each."""
    m = len(logits)
    table = np.zeros((BUCKETS, 3 * m + 1), dtype=np.float16)
    table[1:, -1] = 1.0
    bias = np.array((*logits, *(m * [np.log(10.0)])), dtype=np.float32)
    none = np.zeros((numbers, numbers), dtype=np.float32)
    return Weights(table, np.zeros((numbers, 2 * m), dtype=np.float32), bias, none, none[0])


def query(text: str = "add two apples", risk_target: float = 0.05, **changes: Any) -> Query:
    return replace(Query(text, Objective(risk_target=risk_target)), **changes)
