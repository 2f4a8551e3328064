"""`python -m headgate.worker.backends.builtin.train`: trains, exports and measures the built-in pair."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from headgate.worker.backends.builtin.engine import MODELS, Engine
from headgate.worker.backends.builtin.worksheets import SPLITS, Split, batch

PACKAGED = Path(str(resources.files("headgate.worker.backends.builtin"))) / "weights"
RUNS = Path("build/pair")
EVALUATION_SEED, EVALUATION_QUERIES = 88_000, 5000
OUTCOMES_SEED, OUTCOMES_QUERIES = 77_000, 10_000
_TIMED_QUERIES = 400
_SMOKE_STEPS = 240


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; exit status 0, 130 after Ctrl-C, 1 after one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        print(
            f'error: {error.name} is not installed; pip install "headgate[server,cpu,train]"', file=sys.stderr
        )
        return 1
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m headgate.worker.backends.builtin.train", description=__doc__
    )
    parser.add_argument("--runs", type=Path, default=RUNS, help="checkpoints and curves (%(default)s)")
    parser.add_argument(
        "--weights", type=Path, default=PACKAGED, help="where the ONNX files are (the package)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("train", help="train one model, or go on from its checkpoint")
    command.add_argument("model", choices=MODELS)
    command.add_argument("--steps", type=int, help="shorter or longer than the recipe's schedule")
    command.add_argument("--threads", type=int, default=_cores(), help="of torch, on a CPU (%(default)s)")
    command.set_defaults(run=_train)
    command = commands.add_parser("export", help="checkpoints to ONNX files")
    command.set_defaults(run=_export)
    command = commands.add_parser(
        "evaluate", help="right answers on fresh worksheets, and CPU time per question"
    )
    command.add_argument("--queries", type=int, default=EVALUATION_QUERIES)
    command.add_argument("--seed", type=int, default=EVALUATION_SEED)
    command.set_defaults(run=_evaluate)
    command = commands.add_parser("card", help="the model card and the training curve")
    command.set_defaults(run=_card)
    command = commands.add_parser("outcomes", help="outcome tables of both models, for training the brain")
    command.add_argument("--split", choices=SPLITS, default="router")
    command.add_argument("--queries", type=int, default=OUTCOMES_QUERIES)
    command.add_argument("--seed", type=int, default=OUTCOMES_SEED)
    command.add_argument("--out", type=Path, default=RUNS / "outcomes")
    command.set_defaults(run=_outcomes)
    command = commands.add_parser(
        "smoke", help="a pair of a minute's training, in a folder of its own: does all of it work?"
    )
    command.set_defaults(run=_smoke)
    command = commands.add_parser("all", help="train both, export, evaluate, card, outcomes")
    command.set_defaults(run=_all)
    return parser


def _cores() -> int:
    """Those that this process was given; all that there are where the system does not say, as on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _train(options: argparse.Namespace) -> None:
    import torch

    from headgate.worker.backends.builtin.train.loop import Training
    from headgate.worker.backends.builtin.train.recipe import RECIPES, shortened

    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.model]
    recipe = shortened(recipe, options.steps) if options.steps else recipe
    training = Training(recipe, options.runs, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if training.resume():
        print(f"{recipe.name}: going on from step {training.done}")
    before = signal.signal(signal.SIGINT, lambda *_: setattr(training, "stopping", True))
    try:
        training.run()
    finally:
        signal.signal(signal.SIGINT, before)
    if training.done < recipe.steps:
        print(f"{recipe.name}: stopped after step {training.done}; the same command goes on from there")
        raise KeyboardInterrupt


def _export(options: argparse.Namespace) -> None:
    from headgate.worker.backends.builtin.train import manifest
    from headgate.worker.backends.builtin.train.export import export, read
    from headgate.worker.backends.builtin.train.recipe import RECIPES

    entries = {}
    for name, recipe in RECIPES.items():
        network, seconds = read(options.runs / f"{name}.pt", recipe.shape)
        path = options.weights / f"{name}.onnx"
        digest = export(network, path)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        entries[name] = manifest.entry(recipe, path, digest, parameters, seconds)
    manifest.write(options.weights, entries)


def _engines(folder: Path) -> dict[str, Engine]:
    return {name: Engine.load(folder / f"{name}.onnx") for name in MODELS}


def _evaluate(options: argparse.Namespace) -> None:
    from headgate.worker.backends.builtin.train import manifest
    from headgate.worker.backends.builtin.train.card import group
    from headgate.worker.backends.builtin.train.evaluate import prices, score, shares, total

    engines, sheets = _engines(options.weights), batch(options.seed, options.queries)
    timed = prices(engines, sheets[:_TIMED_QUERIES])
    entries, cells = manifest.read(options.weights), {}
    for name, engine in engines.items():
        found = shares(sheets, score(sheets, engine.answer_batch([sheet.question for sheet in sheets])))
        parts = (total(found), group(found, speciality=False), group(found, speciality=True))
        entries[name] |= manifest.measured(*parts, timed[name], options.seed)
        cells[name] = {
            f"{family}.{level}": (share.right, share.n) for (family, level), share in found.items()
        }
        print(
            name, *(f"{share.mean:.1%}" for share in parts), f"{timed[name].microseconds:.0f} µs a question"
        )
    manifest.write(options.weights, entries)
    options.runs.mkdir(parents=True, exist_ok=True)
    (options.runs / "evaluation.json").write_text(json.dumps(cells))


def _card(options: argparse.Namespace) -> None:
    from headgate.worker.backends.builtin.train import card, curve, manifest
    from headgate.worker.backends.builtin.train.evaluate import Share

    found = json.loads((options.runs / "evaluation.json").read_text())
    cells = {name: {_cell(key): Share(*counts) for key, counts in found[name].items()} for name in MODELS}
    entries = {name: manifest.read(options.weights)[name] for name in MODELS}
    (options.weights / "MODEL_CARD.md").write_text(card.render(entries, cells))
    curves = {name: curve.read(options.runs / f"{name}.curve.jsonl") for name in MODELS}
    curve.plot(curves, options.weights / "training_curve.svg")


def _cell(key: str) -> tuple[str, int]:
    family, level = key.split(".")
    return family, int(level)


def _outcomes(options: argparse.Namespace) -> None:
    from headgate.worker.backends.builtin.train import manifest, outcomes

    entries = manifest.read(options.weights)
    prices = {
        name: (entries[name]["price"]["input_nanousd"], entries[name]["price"]["output_nanousd"])
        for name in MODELS
    }
    split: Split = options.split
    outcomes.write(
        options.out, batch(options.seed, options.queries, split), _engines(options.weights), prices
    )
    outcomes.write_prices(options.out / "prices.csv", entries)


def _smoke(options: argparse.Namespace) -> None:
    """Beside everything else: a pair of one minute must never take the place of the shipped one."""
    options.runs /= "smoke"
    if options.weights == PACKAGED:
        options.weights = options.runs / "weights"
    options.weights.mkdir(parents=True, exist_ok=True)
    _train_both(options, "--steps", str(_SMOKE_STEPS))
    _export(options)
    _run(options, "evaluate", "--queries", str(_TIMED_QUERIES))


def _all(options: argparse.Namespace) -> None:
    _train_both(options)
    _export(options)
    _run(options, "evaluate")
    _run(options, "card")
    _run(options, "outcomes")


def _train_both(options: argparse.Namespace, *extra: str) -> None:
    """One after the other, each on all cores: no run waits for a core that the other one left idle."""
    for name in MODELS:
        _run(options, "train", name, *extra)


def _run(options: argparse.Namespace, *command: str) -> None:
    again = _parser().parse_args(["--runs", str(options.runs), "--weights", str(options.weights), *command])
    again.run(again)


if __name__ == "__main__":
    sys.exit(main())
