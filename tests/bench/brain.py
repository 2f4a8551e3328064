"""`make brain`: what the brain weighs and costs beside other routers, and docs/reference/brain.md.

Everything is measured in one process, pinned to one core, and the sides take turns: trust the ratios. Rivals that
are no dependency (semantic-router, MiniLM) are measured where they are installed, and left out elsewhere.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any

import numpy as np

from headgate.router import bundle as bundles
from headgate.router import features
from headgate.router.bundle import Bundle
from headgate.router.calibrate import brier, expected_calibration_error
from headgate.router.cost import estimate_tokens
from headgate.router.decide import decide
from headgate.router.offline import build, curve, datasets, formats, slices, text_bundle
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.text_bundle import LARGE, SEED, SMALL
from headgate.router.types import Model, Objective, Pool, Price, Query
from headgate.worker.backends.builtin.worksheets import batch
from tests.bench.pairs import DATA, table
from tests.quality.test_out_of_distribution import FOREIGN

PAGE = Path("docs/reference/brain.md")
SHIPPED = Path("services/headgate/gateway/bundles/text.bundle")
LENGTHS = (17, 62, 254)
"""Tokens of the queries, as the gateway counts."""
ROUNDS, CALLS = 30, 40
TOGETHER = 64
"""Queries of a batch."""
NEIGHBOURS = 50

Router = Callable[[str], object]


def main() -> int:
    """Measures and writes the page."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    bundle = bundles.load(SHIPPED.read_bytes())
    outcomes = text_bundle.outcomes(DATA)
    kept = datasets.folds(outcomes, SEED, build.FOLDS) == 0
    learnt, fresh = (outcomes.take(np.flatnonzero(rows)) for rows in (~kept, kept))
    PAGE.write_text(page(bundle, learnt, fresh))
    return 0


def page(bundle: Bundle, learnt: Outcomes, fresh: Outcomes) -> str:
    """The whole page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    parts = (
        "# The brain: speed, weight, calibration, and what it does not know",
        f"The shipped text bundle (version {bundle.version}) on one core, commit {commit.stdout.strip()}, {platform.machine()}, "
        f"Python {platform.python_version()}, numpy {np.__version__}. `make brain` writes this page.",
        "## A whole decision beside other routers",
        f"Microseconds for one query, p50 and p99 of {ROUNDS * CALLS} each, the sides taking turns. TF-IDF + LR is "
        "scikit-learn's, fitted on the same queries, one call of `predict_proba` a model; a draw is what RouteLLM's random router does; "
        "semantic-router's `IndexedRouter` has a stub encoder that costs nothing, MiniLM is all-MiniLM-L6-v2 in int8 with the nearest "
        f"{NEIGHBOURS} of the labelled queries.",
        speed(bundle, learnt, fresh),
        "## Many at once, weight, start",
        weight(bundle, fresh),
        "## Calibration on queries that it has not seen",
        calibrated(bundle, fresh),
        "## Out of distribution",
        "How well the score of the bundle tells apart what it was not made for, against the fresh queries of its own kind.",
        out_of_distribution(bundle, fresh),
    )
    return "\n\n".join(parts) + "\n"


def queries(fresh: Outcomes) -> dict[int, list[str]]:
    """Texts of exactly so many tokens, from the beginnings of real ones."""
    together = " ".join(fresh.texts).split(" ")
    found: dict[int, list[str]] = {}
    for tokens in LENGTHS:
        words = iter(together)
        texts: list[str] = []
        while len(texts) < CALLS:
            text = next(words)
            while estimate_tokens(text) < tokens:
                text = f"{text} {next(words)}"
            while estimate_tokens(text) > tokens:
                text = text[:-1]
            texts.append(text)
        found[tokens] = texts
    return found


def speed(bundle: Bundle, learnt: Outcomes, fresh: Outcomes) -> str:
    """One row for each router."""
    routers = {
        "Headgate": _headgate(bundle),
        "TF-IDF + LR": _tfidf(learnt),
        "a draw": _draw,
        **_optional(learnt),
    }
    texts = queries(fresh)
    taken: dict[tuple[str, int], list[float]] = {(name, n): [] for name in routers for n in LENGTHS}
    for number in range(ROUNDS + 1):
        for name, router in random.Random(number).sample(sorted(routers.items()), len(routers)):
            for tokens in LENGTHS:
                for text in texts[tokens]:
                    began = perf_counter_ns()
                    router(text)
                    if number:
                        taken[name, tokens].append((perf_counter_ns() - began) / 1000)
    ours = {n: float(np.median(taken["Headgate", n])) for n in LENGTHS}
    rows = []
    for name in routers:
        cells = [
            f"{np.median(taken[name, n]):.0f} / {np.quantile(taken[name, n], 0.99):.0f}" for n in LENGTHS
        ]
        rows.append([name, *cells, ", ".join(f"{ours[n] / np.median(taken[name, n]):.2f}" for n in LENGTHS)])
    flat = f"Flat in length: {LENGTHS[-1]} tokens take {ours[LENGTHS[-1]] / ours[LENGTHS[0]]:.2f}× of {LENGTHS[0]} tokens."
    head = ("router", *(f"{n} tokens, µs" for n in LENGTHS), "Headgate / it")
    return f"{table(head, rows)}\n\n{flat}"


def _headgate(bundle: Bundle) -> Router:
    pool = Pool((Model(SMALL, Price(10**8, 10**8)), Model(LARGE, Price(10**9, 10**9))), LARGE)
    objective = Objective(risk_target=0.05)
    return lambda text: decide(bundle, Query(text, objective), pool, now=2e9)


def _tfidf(learnt: Outcomes) -> Router:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    read = vectorizer.fit_transform(learnt.texts)
    models = [LogisticRegression(solver="liblinear").fit(read, right) for right in (learnt.score >= 0.5).T]

    def route(text: str) -> object:
        asked = vectorizer.transform([text])
        return [model.predict_proba(asked)[0, 1] for model in models]

    return route


def _draw(_text: str) -> object:
    return random.random() < 0.5


def _optional(learnt: Outcomes) -> dict[str, Router]:
    """Those that are installed."""
    found: dict[str, Router] = {}
    for name, make in (("semantic-router, stub encoder", _semantic), ("MiniLM int8 + kNN", _minilm)):
        try:
            found[name] = make(learnt)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def _semantic(learnt: Outcomes) -> Router:
    from semantic_router import Route  # type: ignore[import-not-found]
    from semantic_router.encoders import DenseEncoder  # type: ignore[import-not-found]
    from semantic_router.routers import IndexedRouter  # type: ignore[import-not-found]

    vector = np.random.default_rng(0).standard_normal(384).tolist()

    class Stub(DenseEncoder):  # type: ignore[misc]
        def __call__(self, docs: list[Any]) -> list[list[float]]:
            return [vector for _ in docs]

    routes = [
        Route(name=f"route {n}", utterances=list(learnt.texts[20 * n : 20 * n + 20])) for n in range(10)
    ]
    router: Router = IndexedRouter(encoder=Stub(name="stub"), routes=routes)
    return router


def _minilm(learnt: Outcomes) -> Router:
    import onnxruntime
    from tokenizers import Tokenizer  # type: ignore[import-not-found]

    folder = Path(os.environ.get("MINILM", "build/minilm"))
    if not (folder / "model.int8.onnx").is_file():
        raise ImportError(f"there is no {folder}/model.int8.onnx")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.int8.onnx"), options)

    def vector(text: str) -> np.ndarray[Any, Any]:
        read = tokenizer.encode(text)
        ids, mask = np.array([read.ids]), np.array([read.attention_mask])
        hidden = session.run(None, {"input_ids": ids, "attention_mask": mask})[0][0]
        mean = hidden.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    known = np.stack([vector(text) for text in learnt.texts[:2000]])

    def route(text: str) -> object:
        near = np.argpartition(known @ -vector(text), NEIGHBOURS)[:NEIGHBOURS]
        return learnt.score[near].mean(axis=0)

    return route


def weight(bundle: Bundle, fresh: Outcomes) -> str:
    """Batches beside one by one, memory and loading of a fresh process."""
    rows = []
    for tokens, texts in queries(fresh).items():
        alone, together = _one_by_one_and_together(bundle, [texts[n % len(texts)] for n in range(TOGETHER)])
        what = f"estimates of {tokens}-token queries, CPU µs each: one by one / {TOGETHER} together"
        rows.append([what, "≥ 4×", f"{alone:.0f} / {together:.0f} = {alone / together:.1f}×"])
    found = _fresh_process()
    rows += [
        [
            "memory that brain and bundle add to a process that has imported numpy",
            "≤ 100 MB",
            f"{found['mb']:.0f} MB",
        ],
        ["loading the bundle, golden vectors included", "≤ 1 s", f"{found['load_s']:.3f} s"],
        ["size of the file", "≤ 12 MB", f"{SHIPPED.stat().st_size / 1e6:.2f} MB"],
    ]
    return table(("what", "wanted", "reached"), rows)


def _one_by_one_and_together(bundle: Bundle, texts: Sequence[str]) -> tuple[float, float]:
    """CPU microseconds a query, medians, taking turns."""
    asked = [Query(text, Objective(risk_target=0.05)) for text in texts]
    tokens = np.array([float(estimate_tokens(text)) for text in texts])

    def one_by_one() -> None:
        for query, count in zip(asked, tokens.tolist(), strict=True):
            bundle.estimate_one(features.pack([features.extract(query)]), count)

    def together() -> None:
        bundle.estimate(features.extract_all(asked), tokens)

    taken: dict[Callable[[], None], list[float]] = {one_by_one: [], together: []}
    for number in range(ROUNDS + 1):
        for run, times in taken.items():
            began = process_time_ns()
            run()
            if number:
                times.append((process_time_ns() - began) / 1000 / len(asked))
    alone, batched = (float(np.median(times)) for times in taken.values())
    return alone, batched


def _fresh_process() -> dict[str, float]:
    program = (
        "import json, os, numpy, psutil, time\n"
        "process = psutil.Process(); before = process.memory_info().rss\n"
        "from headgate.router import bundle, decide\n"
        f"data = open({str(SHIPPED)!r}, 'rb').read(); began = time.perf_counter(); loaded = bundle.load(data)\n"
        "took = time.perf_counter() - began\n"
        "print(json.dumps({'mb': (process.memory_info().rss - before) / 1e6, 'load_s': took}))"
    )
    found: dict[str, float] = json.loads(
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE).stdout
    )
    return found


def calibrated(bundle: Bundle, fresh: Outcomes) -> str:
    """One row for each model, and what slices of the queries would mend."""
    expected, fresh = build.estimates(bundle, fresh), fresh.with_models(bundle.models)
    rows = []
    for m, name in enumerate(bundle.models):
        p, score = expected.p_correct[:, m], fresh.score[:, m]
        found = slices.misfit(fresh, p, score, SEED)
        change = found.brier_change
        rows.append([
            name, f"{score.mean():.3f}", f"{expected_calibration_error(p, score):.3f}", f"{_by_chance(p):.3f}",
            f"{brier(p, score):.3f}",
            f"{curve.auc(p, score >= 0.5):.3f}", f"{found.loss:.4f}",
            f"{change.value:+.5f} [{change.low:+.5f}, {change.high:+.5f}]",
        ])  # fmt: skip
    head = (
        "model",
        "right",
        "ECE",
        "by chance",
        "Brier",
        "AUC",
        "loss inside slices",
        "Brier with a calibrator per slice",
    )
    return (
        f"n = {len(fresh):,}. The loss inside slices is the squared residual that a tree of the queries' surface and p still finds, grown on "
        "one half of them and measured on the other: a lower bound of calibration and grouping loss together (after Perez-Lebel et al. "
        "2023). `by chance` is the mean ECE that labels drawn from these very predictions would have. The last column mends it: the mean residual of "
        f"each leaf, shrunk, on the other half; below zero is better.\n\n{table(head, rows)}"
    )


def _by_chance(p: np.ndarray[Any, Any]) -> float:
    """Mean ECE of predictions that are right about themselves, at this n."""
    rng = np.random.default_rng(SEED)
    drawn = [(rng.random(len(p)) < p).astype(np.float64) for _ in range(ROUNDS)]
    return float(np.mean([expected_calibration_error(p, score) for score in drawn]))


def out_of_distribution(bundle: Bundle, fresh: Outcomes) -> str:
    """One row for each kind of query."""
    code = formats.read(DATA, source="llmrouter", datasets=["llmrouter-human_eval"]).texts
    worksheets = [one.question for one in batch(SEED, 300)]
    own = _strangeness(bundle, fresh.texts)
    limit = bundle.policy.max_out_of_distribution
    rows = [["its own kind, fresh", f"{len(own):,}", "", f"{(own > limit).mean():.1%}"]]
    for kind, texts in (("code", code), ("worksheets", worksheets), ("16 other languages", FOREIGN)):
        strange = _strangeness(bundle, texts)
        both = np.concatenate((strange, own))
        auroc = curve.auc(both, np.arange(len(both)) < len(strange))
        rows.append([kind, f"{len(strange):,}", f"{auroc:.3f}", f"{(strange > limit).mean():.1%}"])
    return table(
        ("queries", "n", "AUROC (wanted ≥ 0.85)", "above the bundle's limit: to the reference"), rows
    )


def _strangeness(bundle: Bundle, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    read = features.extract_all([Query(text, Objective(risk_target=0.5)) for text in texts])
    return bundle.contents.familiarity.out_of_distribution_all(read)


if __name__ == "__main__":
    sys.exit(main())
