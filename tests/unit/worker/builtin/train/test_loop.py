"""The training loop: it learns, a seed repeats it, and a checkpoint continues it without a seam."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from headgate.worker.backends.builtin.tokens import END
from headgate.worker.backends.builtin.train import curve
from headgate.worker.backends.builtin.train.loop import Training, encode_batch, losses
from headgate.worker.backends.builtin.train.model import Shape
from headgate.worker.backends.builtin.train.recipe import Recipe, Stage
from headgate.worker.backends.builtin.worksheets import FAMILIES, Worksheet

TINY = Recipe("tiny", Shape(layers=1, width=32, heads=2), (Stage(6), Stage(6)), batch=8, pool=3)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def weights(training: Training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.network.parameters()])


def trained(folder: Path) -> Training:
    training = Training(TINY, folder, CPU)
    training.resume()
    training.run()
    return training


def test_a_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, again = trained(tmp_path / "first"), trained(tmp_path / "again")
    assert torch.equal(weights(first), weights(again))
    fresh = Training(TINY, tmp_path / "fresh", CPU)
    assert not torch.equal(weights(first), weights(fresh))


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    stopped = Training(TINY, tmp_path / "stopped", CPU)
    assert not stopped.resume()
    pool = stopped._pool

    def last_pool() -> float:
        stopped.stopping = stopped.done >= TINY.pool
        return pool()

    stopped._pool = last_pool  # type: ignore[method-assign]
    stopped.run()
    assert 0 < stopped.done < TINY.steps
    again = Training(TINY, tmp_path / "stopped", CPU)
    assert again.resume()
    assert again.done == stopped.done
    again.run()
    assert torch.equal(weights(again), weights(trained(tmp_path / "whole")))


GROWING = Recipe("growing", Shape(2, 64, 4), (Stage(3, shape=Shape(1, 32, 2)), Stage(6)), batch=8, pool=3)


def test_a_network_that_grows_is_the_same_whenever_its_run_was_stopped(tmp_path: Path) -> None:
    whole = Training(GROWING, tmp_path / "whole", CPU)
    whole.run()
    assert whole.network.shape == GROWING.shape
    for stops in (3, 6):
        folder = tmp_path / f"{stops}"
        first = Training(GROWING, folder, CPU)
        while first.done < stops:
            first._pool()
        folder.mkdir()
        first.save()
        again = Training(GROWING, folder, CPU)
        assert again.resume()
        again.run()
        assert torch.equal(weights(again), weights(whole))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    other = Recipe("tiny", TINY.shape, (Stage(24),), batch=8, pool=3)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        Training(other, tmp_path, CPU).resume()


def test_the_curve_is_written_down(tmp_path: Path) -> None:
    training = trained(tmp_path)
    rows = curve.read(training.curve_path)
    assert rows[-1]["step"] == TINY.steps
    assert len(rows[-1]["accuracy"]) == 4 * len(FAMILIES)
    plot = tmp_path / "curve.svg"
    curve.plot({"tiny": rows}, plot)
    assert "<svg" in plot.read_text()
    assert "level 3" in plot.read_text()


def test_it_learns_a_family_in_a_moment(tmp_path: Path) -> None:
    emphasis = {family: 1.0 if family == "logic" else 1e-9 for family in FAMILIES}
    recipe = Recipe("tiny", Shape(1, 64, 2), (Stage(120, emphasis),), batch=32, pool=4)
    training = Training(recipe, tmp_path, CPU)
    first = training._pool()
    for _ in range(29):
        last = training._pool()
    assert last < first / 3


def test_the_end_of_a_long_answer_weighs_more() -> None:
    batch = encode_batch([Worksheet("x", 0, "a?", "1234567")], CPU)
    logits = torch.zeros(1, 10, 128)
    logits[0, 9, END] = 9.0
    plain, weighted = (
        losses(logits, batch, Stage(1, prompt_weight=(0.0, 0.0), end_weight=weight), 0.0)[1]
        for weight in (0.0, 1.0)
    )
    wrong, right = math.log(128), math.log(127 + math.exp(9)) - 9
    assert plain == pytest.approx((7 * wrong + right) / 8, rel=1e-5)
    assert weighted == pytest.approx((7 * wrong + 9 * right) / 16, rel=1e-5)


def test_the_question_counts_less_and_less() -> None:
    batch = encode_batch([Worksheet("x", 0, "a?", "1")], CPU)
    stage = Stage(1, prompt_weight=(0.4, 0.0))
    whole = [losses(torch.zeros(1, 4, 128), batch, stage, progress)[0] for progress in (0.0, 0.5, 1.0)]
    assert whole == pytest.approx([1.4 * math.log(128), 1.2 * math.log(128), math.log(128)])


def test_a_batch_marks_question_and_answer() -> None:
    batch = encode_batch([Worksheet("x", 0, "ab?", "cd"), Worksheet("x", 0, "e?", "f")], CPU)
    assert batch.inputs.shape == (2, 6, 4)
    assert batch.targets.tolist()[0] == [*b"b?", END, *b"cd", END]
    assert batch.targets[batch.answers].tolist() == [*b"cd", END, *b"f", END]
    assert batch.targets[batch.prompts].tolist() == [*b"b?", END, *b"?", END]
