from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headgate.cli import app
from headgate.router import bundle as bundles
from headgate.router.offline import summary
from tests.planted import planted, write

Run = Callable[..., tuple[int, str, str]]
PAIR = ("--small", "tiny", "--large", "big")


def test_a_bundle_is_measured_on_what_its_training_held_out(run: Run, folder: Path, made: Path) -> None:
    options = ("--outcomes", folder, "--held-out", 0.2, "--seed", 2, "--redrawn", 3, "--note", "Planted.")
    code, _, err = run("evaluate", *options, "--bundle", made, "--out", "docs/page.md")
    assert code == 0
    assert "wrote docs/page.md" in err
    text = Path("docs/page.md").read_text()
    assert f"Bundle `{bundles.load(made.read_bytes()).version}`" in text
    assert "Measured on 200 queries" in text
    for line in (
        "seed 2",
        "Planted.",
        "| always tiny |",
        "| oracle |",
        "## Do the certificates hold?",
        "APGR",
    ):
        assert line in text
    table = text.split("## Quality and cost")[1].split("APGR")[0].splitlines()
    assert len({line.count("|") for line in table if "|" in line}) == 1, "as many cells as the head has"
    assert run("evaluate", *options, "--bundle", made)[1] == text, "without --out it goes to stdout"


def test_the_recipe_is_told_fold_by_fold_beside_its_rivals(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "CERTIFIED_N", (200,))
    write(tmp_path, planted(6, 300))
    folds = ("--folds", 2, "--no-share", "--certificates")
    code, out, err = run("evaluate", "--outcomes", tmp_path, *PAIR, *folds, "--json", "figures.json")
    assert (code, out) == (0, "")
    figures = json.loads(Path("figures.json").read_text())
    assert figures["n"] == 300
    assert 100 < figures["labels"] < 200
    assert {"apgr", "apgr_ci95", "cpt50", "auc", "ece", "brier", "oracle", "decision_us"} <= set(figures)
    assert {"random", "length + LR", "TF-IDF + LR", "TF-IDF kNN"} <= set(figures["baselines"])
    assert {"n", "alpha", "violation_share", "cheap_share"} <= set(figures["certificates"][0])
    assert figures["apgr"] > 0.5
    for name in ("Headgate", "random", "oracle", "n = 300"):
        assert name in err


def test_two_files_are_trained_on_and_told(run: Run, tmp_path: Path) -> None:
    for name, seed in (("one", 6), ("two", 7)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, planted(seed, 150))
    code, _, err = run("evaluate", "--train", "one", "--test", "two", *PAIR, "--labels", 100, "--json", "f")
    assert code == 0, err
    figures = json.loads(Path("f").read_text())
    assert (figures["n"], figures["labels"]) == (150, 100)


def test_questions_on_both_sides_are_refused(run: Run, folder: Path) -> None:
    code, _, err = run("evaluate", "--train", folder, "--test", folder, *PAIR, "--json", "f.json")
    assert code == 1
    assert "train and test share" in err
    assert not Path("f.json").exists()


def test_where_large_is_no_better_figures_are_null_and_not_nan(run: Run, tmp_path: Path) -> None:
    data = planted(6, 120)
    write(tmp_path, replace(data, score=data.score[:, ::-1]))
    options = ("--outcomes", tmp_path, *PAIR, "--folds", 2, "--no-share", "--json", "f.json")
    code, _, err = run("evaluate", *options)
    assert code == 0, err
    assert "NaN" not in Path("f.json").read_text()
    assert json.loads(Path("f.json").read_text())["apgr"] is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--outcomes", "x"), "give --small"),
        (("--outcomes", "x", "--small", "tiny"), "give --large"),
        (PAIR, "give --outcomes"),
        ((*PAIR, "--train", "x"), "no file or folder x"),
        (("--outcomes", "absent", *PAIR), "there is no file or folder absent"),
        (("--outcomes", "absent", "--bundle", "b"), "there is no file or folder absent"),
    ],
)
def test_what_is_missing_is_named(run: Run, options: tuple[str, ...], sentence: str) -> None:
    code, out, err = run("evaluate", *options)
    assert (code, out) == (1, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_other_folds_than_those_of_the_difficulty_are_refused(run: Run, folder: Path) -> None:
    """Its folds and the calibrators' would not be the same, and what is told would have been seen."""
    code, _, err = run("evaluate", "--outcomes", folder, *PAIR, "--folds", 3)
    assert code == 1
    assert "--no-share" in err


def test_a_source_that_is_to_be_left_out_must_be_there(run: Run, folder: Path) -> None:
    """Or a misspelt one would go on teaching."""
    code, _, err = run("evaluate", "--outcomes", folder, *PAIR, "--leave-out", "mmlu-pro")
    assert code == 1
    assert "has no source 'mmlu-pro'" in err


def test_a_model_that_nobody_knows_is_named_with_its_nearest(run: Run, folder: Path) -> None:
    code, _, err = run("evaluate", "--outcomes", folder, "--small", "tinny", "--large", "big")
    assert code == 1
    assert "'tinny'" in err
    assert "'tiny'" in err


def _outcomes(folder: Path, first: int, n: int) -> Path:
    """Sums that both models answer, small the worse the longer they are."""
    folder.mkdir()
    rng = np.random.default_rng(first)
    queries, outcomes = [("query_id", "query")], [("query_id", "model", "score")]
    for i in range(first, first + n):
        digits = 1 + i % 5
        queries.append((f"q{i}", f"add {10**digits + i} and {3 * i}"))
        for model, chance in (("mini", 1 - 0.2 * digits), ("big", 0.95)):
            outcomes.append((f"q{i}", model, str(int(rng.random() < chance))))
    for name, rows in (("queries", queries), ("outcomes", outcomes)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder


def _evaluate(*more: str) -> int:
    return app.run(["evaluate", "--small", "mini", "--large", "big", *more], {})


def test_a_report_is_a_page_with_pictures_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = _outcomes(tmp_path / "train", 0, 120), _outcomes(tmp_path / "test", 1000, 80)
    report, figures = tmp_path / "new" / "report", tmp_path / "figures.json"
    asked = ("--train", str(train), "--test", str(test), "--report", str(report), "--json", str(figures))
    assert _evaluate(*asked) == 0
    assert sorted(path.name for path in report.iterdir()) == [
        "cost-quality.png", "figures.json", "index.html", "reliability.png", "risk-coverage.png",
    ]  # fmt: skip
    assert f"the report is {report / 'index.html'}" in capsys.readouterr().err
    written, told = json.loads((report / "figures.json").read_text()), json.loads(figures.read_text())
    assert {key: written[key] for key in told} == told
    assert "Routing between mini and big" in (report / "index.html").read_text()


def test_a_report_on_a_file_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    assert _evaluate("--outcomes", str(tmp_path / "none"), "--report", str(taken)) != 0
    assert f"--report takes a folder, and {taken} is a file" in capsys.readouterr().err
    assert taken.read_text() == "mine"


def test_a_report_of_a_bundle_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--bundle", str(tmp_path / "b"), "--outcomes", str(tmp_path), "--report", str(tmp_path / "r"))
    assert _evaluate(*asked) != 0
    assert "with --bundle give --out" in capsys.readouterr().err
