"""Schedules and the two recipes."""

from __future__ import annotations

import pytest

from headgate.worker.backends.builtin.train.model import Shape
from headgate.worker.backends.builtin.train.recipe import RECIPES, Recipe, Stage, rate_at, shortened
from headgate.worker.backends.builtin.worksheets import FAMILIES


def test_rates_hold_then_fall() -> None:
    rates = [rate_at(step / 100) for step in range(101)]
    assert rates[:30] == [1.0] * 30
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert rates[-1] == pytest.approx(0.02)


def test_stages_follow_each_other() -> None:
    first, second = Stage(10), Stage(30)
    recipe = Recipe("x", RECIPES["small"].shape, (first, second))
    assert recipe.steps == 40
    assert recipe.at(0) == (first, 0.0)
    assert recipe.at(9) == (first, 0.9)
    assert recipe.at(10) == (second, 0.0)
    assert recipe.at(25) == (second, 0.5)
    assert recipe.at(40) == (second, 1.0)


def test_a_shortened_recipe_is_whole_pools_of_one_stage() -> None:
    recipe = shortened(RECIPES["large"], 100)
    assert recipe.steps == 96
    assert len(recipe.stages) == 1
    assert shortened(RECIPES["large"], 1).steps == recipe.pool
    assert recipe.shape_at(0) == recipe.shape, "and of one shape, the finished one"


def test_a_network_grows_between_stages_and_whole_pools_end_them() -> None:
    small = Shape(1, 32, 2)
    recipe = Recipe("x", Shape(2, 32, 2), (Stage(10, shape=small), Stage(30)))
    assert [recipe.shape_at(done) for done in (0, 9, 10, 40)] == [small, small, recipe.shape, recipe.shape]
    for shipped in RECIPES.values():
        assert shipped.shape_at(shipped.steps) == shipped.shape
        assert all(stage.steps % shipped.pool == 0 for stage in shipped.stages)


def test_large_is_held_short_of_the_specialities() -> None:
    specialities = [name for name, family in FAMILIES.items() if family.speciality]
    for name in specialities:
        assert all(stage.emphasis[name] < 1 for stage in RECIPES["large"].stages)
        assert all(stage.emphasis[name] > 1 for stage in RECIPES["small"].stages)
