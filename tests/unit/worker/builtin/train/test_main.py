"""The command line, from a few steps of training to a card."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from headgate.worker.backends.builtin.engine import MODELS, Engine, model_version
from headgate.worker.backends.builtin.train import __main__ as train
from headgate.worker.backends.builtin.train.__main__ import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name folders in which both models have had one pool of training."""
    runs, weights = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("weights")
    options = ["--runs", str(runs), "--weights", str(weights)]
    before = signal.getsignal(signal.SIGINT)
    for name in MODELS:
        assert main([*options, "train", name, "--steps", "24"]) == 0
        assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C no longer stops what follows a training"
    assert main([*options, "export"]) == 0
    return options


def weights_of(folders: list[str]) -> Path:
    return Path(folders[3])


def test_the_manifest_names_what_was_written(folders: list[str]) -> None:
    manifest = json.loads((weights_of(folders) / "manifest.json").read_text())
    assert list(manifest) == sorted(MODELS)
    for name, entry in manifest.items():
        content = (weights_of(folders) / entry["file"]).read_bytes()
        assert entry["sha256"] == sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
        assert entry["recipe"]["name"] == name
        assert Engine.load(weights_of(folders) / entry["file"]).answer("1 + 1 = ?").completion_tokens > 0


def test_evaluation_card_and_outcomes(folders: list[str], tmp_path: Path) -> None:
    assert main([*folders, "evaluate", "--queries", "40", "--seed", "5"]) == 0
    assert main([*folders, "card"]) == 0
    manifest = json.loads((weights_of(folders) / "manifest.json").read_text())
    card = (weights_of(folders) / "MODEL_CARD.md").read_text()
    assert "On 40 fresh worksheets (seed 5)" in card
    assert (weights_of(folders) / "training_curve.svg").stat().st_size > 1000
    for name in MODELS:
        assert f"{manifest[name]['parameters']:,}" in card
        assert manifest[name]["evaluation"]["n"] == 40
        assert manifest[name]["cpu_us_per_query"] > 0
        assert manifest[name]["price"]["output_nanousd"] >= 0
    assert main([*folders, "outcomes", "--queries", "6", "--out", str(tmp_path)]) == 0
    tables = {f"{name}.csv.gz" for name in ("queries", "outcomes", "responses")}
    assert {path.name for path in tmp_path.iterdir()} == {*tables, "prices.csv"}
    with (tmp_path / "prices.csv").open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert list(rows) == sorted(MODELS)
    for name, row in rows.items():
        assert round(float(row["usd_per_m_output"]) * 1e9) == manifest[name]["price"]["output_nanousd"]
        assert row["version"] == model_version(manifest[name]["sha256"])


def test_smoke_goes_the_whole_way_and_leaves_the_shipped_pair_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_SMOKE_STEPS", 24)
    monkeypatch.setattr(train, "_TIMED_QUERIES", 8)
    monkeypatch.setattr(train, "PACKAGED", tmp_path / "shipped")
    assert main(["--runs", str(tmp_path), "smoke"]) == 0
    assert not (tmp_path / "shipped").exists()
    made = tmp_path / "smoke" / "weights"
    assert {path.name for path in made.iterdir()} >= {"small.onnx", "large.onnx", "manifest.json"}
    assert json.loads((made / "manifest.json").read_text())["small"]["evaluation"]["n"] == 8


@pytest.mark.parametrize(("cores", "threads"), [(3, 3), (None, 1)])
def test_a_system_that_does_not_say_which_cores_are_given_has_threads_for_all(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert train._parser().parse_args(["train", "small"]).threads == threads


def test_another_recipe_in_the_folder_is_one_sentence(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*folders, "train", "small", "--steps", "48"]) == 1
    assert "belongs to another recipe" in capsys.readouterr().err


def test_ctrl_c_leaves_a_checkpoint(tmp_path: Path) -> None:
    module = "headgate.worker.backends.builtin.train"
    command = [sys.executable, "-u", "-m", module, "--runs", str(tmp_path), "train", "small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 60
        rest = process.stdout.read()
    assert time.monotonic() < deadline
    assert process.returncode == 130
    assert first.startswith("small  step")
    assert "the same command goes on from there" in rest
    assert (tmp_path / "small.pt").exists()
