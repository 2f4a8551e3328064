"""`make semantic`: a day of questions before a cache that serves like ones, and what of it is wrong.

Writes docs/reference/semantic.md. Questions of the collision set (tests/collisions.py) come by Zipf's law, in
several wordings each; near-misses are among them, as every other value of a slot is a question of its own.
Each request goes the way of the gateway: its own text, else the nearest entry whose guards agree, then the
bound. A model that always answers stands behind it, so that a wrong hit is known.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from random import Random
from statistics import fmean, median, stdev

import numpy as np

from headgate.router.embedding import Embedding, Look
from headgate.router.guards import difference
from headgate.router.hits import Audit, HitBound
from tests import collisions
from tests.collisions import KINDS, Asked, Template

PAGE = Path("docs/reference/semantic.md")
WRONG_HITS, CONFIDENCE = 0.01, 0.9
AUDITED = 0.05
"""Share of hits that are answered afresh and compared."""
REQUESTS, LIVES = 10_000, 2_000
"""Requests in a run, and for how many of them an entry lives."""
TEXTS = 100
"""Ways to ask one question."""
SEEDS = 50
PAIRS = 4_000
NEAREST = 8
FIXED = 0.9
DRIFTS = (0.05, 0.2, 0.5)


@dataclass(frozen=True)
class Policy:
    """How the cache decides; exact matching comes first under each."""

    name: str
    semantic: bool = True
    guarded: bool = True
    fixed: float | None = None
    """Serves from this similarity on, unmeasured; None: what the bound allows."""


OURS = Policy("guards and bound")
EXACT = Policy("exact only", semantic=False)
COSINE = Policy(f"fixed cosine {FIXED:g}", guarded=False, fixed=FIXED)
UNGUARDED = Policy("bound, no guards", guarded=False)
UNBOUND = Policy(f"guards, fixed cosine {FIXED:g}", fixed=FIXED)
POLICIES = (OURS, EXACT, COSINE, UNGUARDED, UNBOUND)


@dataclass
class Run:
    """What became of one workload's requests."""

    exact: int = 0
    like: int = 0
    """Hits on another text's entry."""
    wrong: int = 0
    audits: int = 0
    course: list[tuple[int, int, float | None]] = field(default_factory=list)
    """After each request: like hits, wrong ones, and the threshold."""

    @property
    def hits(self) -> int:
        return self.exact + self.like

    @property
    def wrong_share(self) -> float:
        """Among hits on other texts' entries: exact ones would flatter it."""
        return self.wrong / self.like if self.like else 0.0

    @property
    def first(self) -> int | None:
        """The request that was served first from another text's entry."""
        return next((now for now, (like, _, _) in enumerate(self.course) if like), None)


def embedding() -> Embedding:
    """The shipped table of words."""
    return Embedding.read(resources.files("headgate.router").joinpath("words.npz").read_bytes())


def workload(templates: Sequence[Template], n: int, seed: int) -> list[Asked]:
    """n requests: which question is drawn by Zipf's law, which of its texts evenly."""
    rng = Random(seed)
    questions = [(template, values) for template in templates for values in template.answers]
    rng.shuffle(questions)
    texts = [[collisions.ask(*question, rng) for _ in range(TEXTS)] for question in questions]
    ranked = rng.choices(texts, weights=_zipf(len(texts)), k=n)
    return [rng.choice(ways) for ways in ranked]


def _zipf(n: int) -> list[float]:
    return [1 / rank for rank in range(1, n + 1)]


class Cache:
    """Entries by their text, each for `LIVES` requests; vectors in a ring of rows."""

    def __init__(self, dim: int) -> None:
        self._rows = np.zeros((LIVES, dim), dtype=np.float32)
        self._entries: list[tuple[Asked, bytes] | None] = [None] * LIVES
        self._alive: OrderedDict[str, tuple[int, Asked]] = OrderedDict()
        self._places: dict[str, int] = {}
        self._free = list(range(LIVES))

    def expire(self, now: int) -> None:
        while self._alive:
            text, (stored, _) = next(iter(self._alive.items()))
            if stored + LIVES > now:
                return
            self._drop(text)

    def _drop(self, text: str) -> None:
        del self._alive[text]
        place = self._places.pop(text)
        self._rows[place] = 0
        self._entries[place] = None
        self._free.append(place)

    def store(self, asked: Asked, look: Look, now: int) -> None:
        if asked.text in self._alive:
            return
        place = self._free.pop()
        self._places[asked.text], self._alive[asked.text] = place, (now, asked)
        self._rows[place], self._entries[place] = look.vector, (asked, look.facts)

    def exact(self, text: str) -> bool:
        return text in self._alive

    def nearest(self, look: Look, policy: Policy) -> tuple[float, Asked] | None:
        """The most alike of the nearest entries whose guards agree."""
        if not policy.semantic:
            return None
        alike = self._rows @ look.vector
        nearest = np.argpartition(alike, -NEAREST)[-NEAREST:]
        for place in sorted(nearest.tolist(), key=lambda one: (-alike[one], one)):
            entry = self._entries[place]
            if entry is not None and not (policy.guarded and difference(entry[1], look.facts)):
                return float(alike[place]), entry[0]
        return None


class Runner:
    """Sends workloads through caches; looks at each text once."""

    def __init__(self, words: Embedding) -> None:
        self._look, self._dim = lru_cache(maxsize=100_000)(words.look), words.dim

    def run(self, requests: Iterable[Asked], policy: Policy, seed: int) -> Run:
        """One cache from its first request on."""
        rng, cache, bound, done = Random(seed), Cache(self._dim), HitBound(WRONG_HITS, CONFIDENCE), Run()
        for now, asked in enumerate(requests):
            cache.expire(now)
            look = self._look(asked.text)
            if cache.exact(asked.text):
                done.exact += 1
            elif not _served(cache.nearest(look, policy), asked, policy, bound, rng, done):
                cache.store(asked, look, now)
            done.course.append((done.like, done.wrong, bound.threshold))
        done.audits = bound.audits
        return done


def _served(
    found: tuple[float, Asked] | None, asked: Asked, policy: Policy, bound: HitBound, rng: Random, done: Run
) -> bool:
    """Whether the entry that was found answers the request; what it does not answer is an audit."""
    if found is None:
        return False
    similarity, entry = found
    same, name = entry.answer == asked.answer, blake2b(entry.text.encode(), digest_size=16).digest()
    if policy.fixed is not None:
        serves = similarity >= policy.fixed
    else:
        serves = bound.serves(similarity, name) and rng.random() >= AUDITED
    if serves:
        done.like += 1
        done.wrong += not same
    else:
        bound.note(Audit(name, similarity, same))
    return serves


def drifting(requests: Sequence[Asked], share: float, seed: int) -> list[Asked]:
    """The same texts; of the second half this share has an answer of its own that no text tells.

    As if it came to depend on the day: near-misses of similarity 1 that pass every guard.
    """
    rng, half = Random(seed), len(requests) // 2
    changed = [
        Asked(one.text, (f"{one.answer[0]} {now}", one.answer[1])) if rng.random() < share else one
        for now, one in enumerate(requests[half:])
    ]
    return [*requests[:half], *changed]


@dataclass(frozen=True)
class Withdrawal:
    """What was served after the drift began, until nothing was: None if it never came to that."""

    threshold: float | None
    requests: int | None
    like: int
    wrong: int


def withdrawal(done: Run) -> Withdrawal:
    """Reads it off the course of a drifting run."""
    half = len(done.course) // 2
    begun_like, begun_wrong, threshold = done.course[half - 1]
    rest = done.course[half:]
    ended = next((now for now, (_, _, served) in enumerate(rest) if served is None), None)
    like, wrong, _ = rest[-1 if ended is None else ended]
    return Withdrawal(threshold, None if ended is None else ended + 1, like - begun_like, wrong - begun_wrong)


@dataclass(frozen=True)
class Seen:
    """What became of the pairs of one kind."""

    pairs: int
    stopped: Counter[str]
    """By which guard."""
    passed: tuple[float, ...]
    """Similarities of those that no guard stopped."""

    @property
    def recall(self) -> float:
        """The share that some guard stopped."""
        return self.stopped.total() / self.pairs

    def above(self, threshold: float) -> float:
        """The share of all pairs that would hit at a threshold."""
        return sum(similarity >= threshold for similarity in self.passed) / self.pairs


def seen(words: Embedding, templates: Sequence[Template], n: int, seed: int) -> dict[str, Seen]:
    """Every pair past the guards, by kind."""
    stopped: dict[str, Counter[str]] = {kind: Counter() for kind in ("paraphrase", *KINDS)}
    passed: dict[str, list[float]] = {kind: [] for kind in stopped}
    for pair in collisions.pairs(templates, n, seed):
        one, other = words.look(pair.one.text), words.look(pair.other.text)
        guard = difference(one.facts, other.facts)
        if guard:
            stopped[pair.kind][guard] += 1
        else:
            passed[pair.kind].append(float(one.vector @ other.vector))
    return {
        kind: Seen(guards.total() + len(passed[kind]), guards, tuple(passed[kind]))
        for kind, guards in stopped.items()
    }


def main() -> int:
    """Measures, and writes the page."""
    words = embedding()
    runner = Runner(words)
    runs: dict[str, list[Run]] = {policy.name: [] for policy in POLICIES}
    drifts: dict[float, list[Withdrawal]] = {share: [] for share in DRIFTS}
    for seed in range(SEEDS):
        requests = workload(collisions.TEST, REQUESTS, seed)
        for policy in POLICIES:
            runs[policy.name].append(runner.run(requests, policy, seed))
        for share, found in drifts.items():
            found.append(withdrawal(runner.run(drifting(requests, share, seed), OURS, seed)))
        print(f"seed {seed}: {runs[OURS.name][-1].wrong_share:.2%} wrong", file=sys.stderr)
    PAGE.write_text(page(seen(words, collisions.TEST, PAIRS, SEEDS), runs, drifts))
    return 0


def standard_error(values: Sequence[float]) -> float:
    """Of their mean."""
    return stdev(values) / len(values) ** 0.5


def page(kinds: dict[str, Seen], runs: dict[str, list[Run]], drifts: dict[float, list[Withdrawal]]) -> str:
    """The page, all runs in it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    parts = (
        "# Like questions: how many hits, and how many of them wrong?",
        "",
        f"{SEEDS} days of {REQUESTS:,} questions each, of {len(collisions.TEST)} templates that no guard, weight or"
        f" threshold was developed on ([collisions](../../tests/collisions.py)): which question is drawn by Zipf's law,"
        f" which of its {TEXTS} texts evenly; an entry lives for {LIVES:,} requests. The bound is ε ="
        f" {WRONG_HITS:.0%} of hits wrong at {CONFIDENCE:.0%} confidence; {AUDITED:.0%} of hits are audited. A hit on"
        f" the same text is counted as exact; wrong shares are of the other hits. Commit {commit},"
        f" {platform.machine()}, Python {platform.python_version()}. `make semantic` writes this page.",
        "",
        *_policies(runs),
        "## Which guard sees what",
        "",
        f"{sum(one.pairs for one in kinds.values()):,} pairs of the test templates: half of them paraphrases, which should"
        ' pass; in the others one value differs. *Unguarded* changes are such as "cancel" to "return": nothing but'
        " their similarity and the bound is against them.",
        "",
        *_kinds(kinds),
        "The templates are the project's own and by the hand that wrote the guards: another language, typos or other"
        ' habits of asking will be stopped more often, and changes that no list names ("unguarded") are seen by the bound'
        " alone. The audits say what your traffic is like; these figures do not.",
        "",
        "## When answers drift",
        "",
        f"From request {REQUESTS // 2:,} on a share of the requests has an answer that their text does not tell: near-misses"
        " of similarity 1 that pass every guard, after certification. Until nothing is served any more (median and"
        " largest of the runs):",
        "",
        *_drifts(drifts),
        "## All runs",
        "",
        *_runs(runs[OURS.name], runs[EXACT.name]),
        "",
    )
    return "\n".join(parts)


def _policies(runs: dict[str, list[Run]]) -> list[str]:
    exact = fmean(one.hits for one in runs[EXACT.name])
    lines = [
        "| cache | hits | × exact only | wrong of like hits, mean ± SE | worst day | days without like hits | holds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in runs.items():
        shares = [one.wrong_share for one in found]
        hits, error = fmean(one.hits for one in found), standard_error(shares)
        none = sum(not one.like for one in found)
        lines.append(
            f"| {name} | {hits / REQUESTS:.1%} | {hits / exact:.2f} | {fmean(shares):.2%} ± {error:.2%}"
            f" | {max(shares):.2%} | {none} | {'yes' if holds(found, runs[EXACT.name]) else 'no'} |"
        )
    return [*lines, "", "*Holds*: wrong ≤ ε + 2 SE, and twice the hits of exact matching alone.", ""]


def holds(found: Sequence[Run], exact: Sequence[Run]) -> bool:
    """The promise: few enough wrong, and twice the hits of exact matching."""
    shares = [one.wrong_share for one in found]
    few = fmean(shares) <= WRONG_HITS + 2 * standard_error(shares)
    return few and sum(one.hits for one in found) >= 2 * sum(one.hits for one in exact)


def _kinds(kinds: dict[str, Seen]) -> list[str]:
    lines = [
        "| pairs | n | stopped | by | still as alike as 0.96 | as 0.9 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind, one in kinds.items():
        by = ", ".join(f"{guard} {n}" for guard, n in one.stopped.most_common())
        lines.append(
            f"| {kind} | {one.pairs:,} | {one.recall:.1%} | {by} | {one.above(0.96):.1%} | {one.above(0.9):.1%} |"
        )
    return [*lines, ""]


def _drifts(drifts: dict[float, list[Withdrawal]]) -> list[str]:
    lines = [
        "| share that drifts | runs | withdrawn | requests | like hits served | wrong ones |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for share, found in drifts.items():
        served = [one for one in found if one.threshold is not None]
        ended = [one.requests for one in served if one.requests is not None]
        lines.append(
            f"| {share:.0%} | {len(served)} | {len(ended)} | {_spread(ended)} | {_spread([one.like for one in served])}"
            f" | {_spread([one.wrong for one in served])} |"
        )
    return [*lines, ""]


def _spread(values: Sequence[int]) -> str:
    return f"{median(values):,.0f}, {max(values):,}" if values else "–"


def _runs(ours: Sequence[Run], exact: Sequence[Run]) -> list[str]:
    lines = [
        "| seed | exact hits | like hits | wrong | share | audits | first like hit | threshold at the end | × exact only |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for seed, (one, alone) in enumerate(zip(ours, exact, strict=True)):
        lines.append(
            f"| {seed} | {one.exact:,} | {one.like:,} | {one.wrong} | {one.wrong_share:.2%} | {one.audits:,}"
            f" | {one.first} | {one.course[-1][2]} | {one.hits / alone.hits:.2f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
