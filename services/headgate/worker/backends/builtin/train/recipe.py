"""What is trained how: everything that, with the seed, decides the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

from headgate.worker.backends.builtin.train.model import Shape
from headgate.worker.backends.builtin.worksheets import FAMILIES

SEED = 20261123

_CONSTANT_SHARE = 0.3
_LAST_RATE = 0.02


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps under one schedule.

    Both rates hold for the first 30 % of the steps, then fall as a cosine to 2 %. The loss on the
    question's bytes is weighted with `prompt_weight`, from the first value to the second. All levels are
    open after `open_share` of the steps. `emphasis` multiplies a family's share of the mix (1 where it
    has none). The end byte weighs `end_weight` times the answer's length more than another byte: in a
    long answer, where to stop is one decision among a hundred bytes. `shape` is given where the network is
    still smaller than the recipe's: what a small one has learned in cheap steps, a larger one goes on with.
    """

    steps: int
    emphasis: Mapping[str, float] = field(default_factory=dict)
    muon_rate: float = 0.007
    adam_rate: float = 0.01
    prompt_weight: tuple[float, float] = (0.1, 0.0)
    open_share: float = 0.4
    end_weight: float = 0.0
    shape: Shape | None = None


class _Continued(TypedDict):
    muon_rate: float
    adam_rate: float
    prompt_weight: tuple[float, float]
    open_share: float
    end_weight: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model's training: `batch` worksheets a step, drawn for `pool` steps at a time.

    `shape` is that of the finished network.
    """

    name: str
    shape: Shape
    stages: tuple[Stage, ...]
    seed: int = SEED
    batch: int = 32
    pool: int = 24

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def at(self, done: int) -> tuple[Stage, float]:
        """The stage after `done` steps, and the share of it that is behind (0 to 1)."""
        for stage in self.stages:
            if done < stage.steps:
                return stage, done / stage.steps
            done -= stage.steps
        return self.stages[-1], 1.0

    def shape_at(self, done: int) -> Shape:
        """The network's shape in the step after `done` steps."""
        return self.at(done)[0].shape or self.shape


def rate_at(progress: float) -> float:
    """Share of the full learning rate at a stage's progress of 0 to 1."""
    if progress < _CONSTANT_SHARE:
        return 1.0
    fallen = (progress - _CONSTANT_SHARE) / (1 - _CONSTANT_SHARE)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fallen))


_SPECIALITIES = tuple(name for name, family in FAMILIES.items() if family.speciality)
_LONG = {"spell": 0.5, "ladder": 0.5}
_CONTINUED = _Continued(
    muon_rate=0.005, adam_rate=0.006, prompt_weight=(0.0, 0.0), open_share=0.0, end_weight=0.1
)
_FINISHED: _Continued = {**_CONTINUED, "muon_rate": 0.003, "adam_rate": 0.003}
_SAPLING = Shape(layers=4, width=160, heads=5)

RECIPES: dict[str, Recipe] = {
    "small": Recipe(
        "small",
        Shape(layers=2, width=64, heads=4),
        (
            Stage(16_008, {**_LONG, **dict.fromkeys(_SPECIALITIES, 2.0)}),
            Stage(7200, {**_LONG, **dict.fromkeys(_SPECIALITIES, 2.0)}, **_CONTINUED),
            Stage(6000, {"spell": 5.0, "ladder": 0.25, **dict.fromkeys(_SPECIALITIES, 2.0)}, **_CONTINUED),
        ),
    ),
    "large": Recipe(
        "large",
        Shape(layers=5, width=192, heads=6),
        (
            Stage(12_000, {**_LONG, **dict.fromkeys(_SPECIALITIES, 0.25)}, shape=_SAPLING),
            Stage(8400, dict.fromkeys(_SPECIALITIES, 0.15), **_CONTINUED, shape=_SAPLING),
            Stage(1800, dict.fromkeys(_SPECIALITIES, 0.15), **_FINISHED, shape=_SAPLING),
            Stage(2400, {"ladder": 1.5, **dict.fromkeys(_SPECIALITIES, 0.08)}, **_FINISHED),
        ),
    ),
}


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The first stage alone, over fewer or more steps: its schedule is stretched with them."""
    whole_pools = max(recipe.pool, steps // recipe.pool * recipe.pool)
    stage = replace(recipe.stages[0], steps=whole_pools, shape=None)
    return replace(recipe, stages=(stage,))
