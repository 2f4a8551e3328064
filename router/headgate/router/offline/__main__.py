"""`python -m headgate.router.offline train | evaluate`: outcome files in, a bundle or a report out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.router import bundle as bundles
from headgate.router.calibrate import KINDS
from headgate.router.errors import RouterError
from headgate.router.offline import datasets
from headgate.router.offline.datasets import DataError, Outcomes

if TYPE_CHECKING:
    from headgate.router.offline.certify import Plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; exit status 0, or 1 after one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (DataError, RouterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(
            f'error: {error.name} is not installed; pip install "headgate[server,cpu,train]"', file=sys.stderr
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m headgate.router.offline", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="train | evaluate")
    train = commands.add_parser("train", help="train, calibrate and certify a bundle on outcomes")
    _add_data(train)
    train.add_argument(
        "--prices", type=Path, required=True, help="CSV: model, usd_per_m_input, usd_per_m_output[, version]"
    )
    train.add_argument("--reference", required=True, help="the model that regret compares with")
    train.add_argument("--out", type=Path, required=True, help="where the bundle is written")
    train.add_argument(
        "--risk-target", type=float, default=0.05, help="the bundle's default risk target (%(default)s)"
    )
    train.add_argument(
        "--window",
        type=int,
        default=300,
        help="requests over which a certificate can be checked (%(default)s)",
    )
    train.add_argument(
        "--calibrator", choices=KINDS, default="platt", help="map from scores to p_correct (%(default)s)"
    )
    train.add_argument(
        "--epochs", type=float, default=10, help="passes over the training queries (%(default)s)"
    )
    train.add_argument(
        "--answer-tokens", type=float, default=256, help="answer length where the data has none (%(default)s)"
    )
    train.add_argument("--created", type=date.fromisoformat, help="date in the certificates (today, UTC)")
    train.add_argument(
        "--expires", type=date.fromisoformat, help="from then on the certificates are not valid (never)"
    )
    train.set_defaults(run=_train)
    evaluate = commands.add_parser("evaluate", help="measure a bundle on outcomes it has not seen")
    _add_data(evaluate)
    evaluate.add_argument("--bundle", type=Path, required=True)
    evaluate.add_argument("--out", type=Path, help="where the Markdown page is written (standard output)")
    evaluate.add_argument("--title", default="Evaluation of a routing bundle")
    evaluate.add_argument("--note", default="", help="a sentence on the page about the data")
    evaluate.add_argument(
        "--redrawn", type=int, default=50, help="re-drawn certification sets for hold rates (%(default)s)"
    )
    evaluate.set_defaults(run=_evaluate)
    return parser


def _add_data(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--queries", type=Path, required=True, help="CSV or CSV.gz: query_id, query")
    add(
        "--outcomes",
        type=Path,
        required=True,
        help="CSV or CSV.gz: query_id, model, score[, prompt_tokens, completion_tokens]",
    )
    add("--models", nargs="+", default=(), help="only these models (all)")
    add("--datasets", nargs="+", default=(), help="only rows of these datasets (all)")
    add("--seed", type=int, default=0, help="seed of split, training and bootstrap (%(default)s)")
    held_out = "share of the queries that train leaves out and evaluate, with the same seed, takes (0)"
    add("--held-out", type=_share, default=0.0, metavar="SHARE", help=held_out)


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError("must be a share: 0 or more, and below 1")
    return share


def _train(options: argparse.Namespace) -> None:
    from headgate.router.offline import certify

    outcomes = _read(options)
    kept = 1 - options.held_out
    train, calibration, threshold, _ = datasets.split(
        outcomes, options.seed, [*(kept * share for share in certify.SHARES.values()), options.held_out]
    )
    _say(f"{len(train):,} queries to train, {len(calibration):,} to calibrate, {len(threshold):,} to certify")
    contents = certify.build(certify.Parts(train, calibration, threshold), _plan(options), _progress)
    data = bundles.dump(contents)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(data)
    for c in contents.certificates:
        _say(f"certified: risk target {c.risk_target:g} up to λ = {c.lam:.4g} on {c.n:,} queries")
    if not any(c.risk_target <= options.risk_target for c in contents.certificates):
        _say(f"no certificate meets the default risk target {options.risk_target:g}; more queries are needed")
    _say(f"wrote {options.out} ({len(data):,} bytes), version {bundles.load(data).version}")


def _plan(options: argparse.Namespace) -> Plan:
    from headgate.router.offline.certify import Plan
    from headgate.router.offline.train import Recipe

    return Plan(
        reference=options.reference,
        listed=datasets.read_prices(options.prices),
        created=_instant(options.created or datetime.now(UTC).date()),
        recipe=Recipe(seed=options.seed, epochs=options.epochs, default_answer_tokens=options.answer_tokens),
        calibrator=options.calibrator,
        risk_target=options.risk_target,
        window=options.window,
        expires=_instant(options.expires) if options.expires else None,
    )


def _evaluate(options: argparse.Namespace) -> None:
    from headgate.router.offline import evaluate, report

    if not options.bundle.is_file():
        raise DataError(f"there is no file {options.bundle}")
    bundle = bundles.load(options.bundle.read_bytes())
    outcomes = _read(options)
    if options.held_out:
        outcomes = datasets.split(outcomes, options.seed, [1 - options.held_out, options.held_out])[1]
    _say(f"{len(outcomes):,} queries")
    found = evaluate.evaluate(bundle, outcomes, options.seed, options.redrawn)
    page = report.page(options.title, bundle, found, options.seed, options.note)
    if options.out is None:
        print(page, end="")
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(page, encoding="utf-8")
        _say(f"wrote {options.out}")


def _read(options: argparse.Namespace) -> Outcomes:
    return datasets.read(options.queries, options.outcomes, options.models, options.datasets)


def _instant(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()


def _progress(done: int, total: int, loss: float) -> None:
    _say(f"step {done:,} of {total:,}: loss {loss:.4f}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
