"""What becomes of every query at every λ: who answers, and whose drafts were paid for and not taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headgate.router.bundle import Bundle, Estimates
from headgate.router.offline import drafts
from headgate.router.offline.datasets import DataError, Outcomes
from headgate.router.policy import Policy
from headgate.router.reader import Reader, Reading, both

_Array = NDArray[np.float64]
_BATCH = 512

Readings = Mapping[int, Reading]
"""What drafts of a model say, by the model's place in the policy."""
NO_READINGS: Final[Readings] = {}


@dataclass(frozen=True, slots=True)
class Courses:
    """`answered` (n, G): index of the model whose answer is delivered; `wasted` (n, G, M): whose drafts
    were not accepted."""

    answered: NDArray[np.intp]
    wasted: NDArray[np.bool_]

    def cost(self, of_models: _Array) -> _Array:
        """(n, G) of what each model costs (n, M), drafts that were not accepted too."""
        wasted = np.einsum("ngm,nm->ng", self.wasted, of_models)
        return np.asarray(np.take_along_axis(of_models, self.answered, axis=1) + wasted)


def courses(policy: Policy, expected: Estimates, readings: Readings = NO_READINGS) -> Courses:
    """Of every query at every λ of the policy's grid."""
    found = [one_course(policy, expected, readings, lam) for lam in policy.grid]
    answered, wasted = (np.stack(columns, axis=1) for columns in zip(*found, strict=True))
    return Courses(answered, wasted)


def one_course(
    policy: Policy, expected: Estimates, readings: Readings, lam: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """`answered` (n,) and `wasted` (n, M) at one λ."""
    cost = expected.relative_cost
    answered = policy.choose(expected.p_correct, expected.spread, cost, lam)
    wasted = np.zeros(cost.shape, dtype=bool)
    drafts = [(index, np.flatnonzero(answered == index)) for index in readings]
    for index, rows in drafts:
        one = readings[index].take(rows)
        wasted[rows, index] = True
        then = policy.accept((index,), one.p_correct, one.spread, cost[rows], lam)
        answered[rows] = then
        for other in readings.keys() - {index} if policy.most_drafts > 1 else ():
            more = rows[then == other]
            two = both(expected.p_correct[more], readings[index].take(more), readings[other].take(more))
            wasted[more, other] = True
            answered[more] = policy.accept((index, other), two.p_correct, two.spread, cost[more], lam)
    wasted[np.arange(len(cost)), answered] = False
    return answered, wasted


def choices(policy: Policy, expected: Estimates, readings: Readings = NO_READINGS) -> NDArray[np.intp]:
    """Index of the model whose answer is delivered, for every query and every λ of the grid, (n, G)."""
    return courses(policy, expected, readings).answered


def regrets(policy: Policy, chosen: NDArray[np.intp], score: _Array) -> NDArray[np.bool_]:
    """Where the chosen model's answer was worse than the reference's, of the shape of `chosen` (n, G)."""
    got = np.take_along_axis(score, chosen, axis=1)
    return np.asarray(got < score[:, policy.reference_index, None])


def readings(bundle: Bundle, outcomes: Outcomes, expected: Estimates) -> Readings:
    """At the recorded drafts of a table, by every reader of the bundle; DataError if they are not
    recorded.

    A draft that is as long as the policy's hold-back or longer is read where that ends, as far as it is
    written then.
    """
    hold_back, found = bundle.policy.hold_back, {}
    for name, reader in bundle.readers.items():
        index, early = bundle.position[name], bundle.early_readers.get(name)
        reading = _read(reader, index, outcomes, expected)
        longer = np.array([one.tokens >= hold_back for one in outcomes.drafts[name]], dtype=bool)
        if early is not None and longer.any():
            begun = drafts.begun(outcomes, name, np.full(len(outcomes), hold_back))
            reading = Reading.where(longer, _read(early, index, begun, expected), reading)
        found[index] = reading
    return found


def _read(reader: Reader, index: int, outcomes: Outcomes, expected: Estimates) -> Reading:
    name, logprobs = reader.contents.model, reader.contents.logprobs
    seen = drafts.seen(outcomes, name, logprobs)
    if logprobs and not drafts.have_logprobs(outcomes, name):
        raise DataError(
            f"the bundle reads drafts of {name!r} by their log-probabilities, and some of these have "
            "none: bring drafts with them, or train without"
        )
    parts = [
        reader.read(seen[rows], expected.logits[rows], expected.completion_tokens[rows, index])
        for rows in (slice(start, start + _BATCH) for start in range(0, len(seen), _BATCH))
    ]
    return Reading.joined(parts)
