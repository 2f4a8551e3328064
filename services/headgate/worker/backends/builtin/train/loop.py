"""The training loop: flat, seeded, resumable."""

from __future__ import annotations

import json
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from headgate.worker.backends.builtin.tokens import END, encode, windows
from headgate.worker.backends.builtin.train.curriculum import CELLS, Curriculum
from headgate.worker.backends.builtin.train.grow import grown
from headgate.worker.backends.builtin.train.model import Network, Shape
from headgate.worker.backends.builtin.train.muon import Muon
from headgate.worker.backends.builtin.train.recipe import Recipe, Stage, rate_at
from headgate.worker.backends.builtin.worksheets import Worksheet

_REPORT_SECONDS = 5.0
_CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Worksheets of similar length.

    `inputs` (n, length, 4) are windows, `targets` (n, length) the next bytes; `answers` and `prompts`
    (n, length) mark the targets that belong to the answer and to the question.
    """

    sheets: list[Worksheet]
    inputs: Tensor
    targets: Tensor
    answers: Tensor
    prompts: Tensor


def encode_batch(sheets: list[Worksheet], device: torch.device) -> Batch:
    """Worksheets as padded tensors on a device."""
    rows = [[*encode(sheet.question), END, *encode(sheet.answer), END] for sheet in sheets]
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int32)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    starts = np.array([[len(sheet.question)] for sheet in sheets])
    ends = np.array([[len(row) - 1] for row in rows])
    place = np.arange(width - 1)[None]
    tensors = (
        windows(ids[:, :-1]),
        ids[:, 1:].astype(np.int64),
        (place >= starts) & (place < ends),
        place < starts,
    )
    return Batch(sheets, *(torch.from_numpy(array).to(device, non_blocking=True) for array in tensors))


def losses(logits: Tensor, batch: Batch, stage: Stage, progress: float) -> tuple[Tensor, Tensor]:
    """What a step minimises, and the answers' part of it: both mean losses per byte, in nats."""
    surprise = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    surprise = surprise.view_as(batch.targets)
    ends = batch.answers & (batch.targets == END)
    weights = batch.answers + stage.end_weight * ends * batch.answers.sum(dim=1, keepdim=True)
    answer_loss = (surprise * weights).sum() / weights.sum()
    first, last = stage.prompt_weight
    prompt_loss = (surprise * batch.prompts).sum() / batch.prompts.sum()
    return answer_loss + (first + (last - first) * progress) * prompt_loss, answer_loss.detach()


class Training:
    """One run of a recipe, from its start or from a checkpoint."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        torch.manual_seed(recipe.seed)
        self._take(Network(recipe.shape_at(0)).to(device))
        self.rng = Random(recipe.seed)
        self.curriculum = Curriculum()
        self.done, self.seconds = 0, 0.0
        self.stopping = False

    def _take(self, network: Network) -> None:
        """Goes on with this network; its optimizers begin anew."""
        self.network = network
        matrices = list(self.network.blocks.parameters())
        inner = [param for param in matrices if param.ndim >= 2]
        others = [param for param in self.network.parameters() if not any(param is other for other in inner)]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(inner, lr=0.0),
            torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]

    @property
    def checkpoint_path(self) -> Path:
        """Weights and everything else that the next run needs to go on."""
        return self.folder / f"{self.recipe.name}.pt"

    @property
    def curve_path(self) -> Path:
        """One JSON line per report: step, seconds, loss, accuracy by family and level."""
        return self.folder / f"{self.recipe.name}.curve.jsonl"

    def run(self) -> None:
        """Trains to the last step, or until `stopping` is set; leaves a checkpoint either way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        last_report = last_save = time.monotonic()
        while self.done < self.recipe.steps and not self.stopping:
            started = time.monotonic()
            loss = self._pool()
            now = time.monotonic()
            self.seconds += now - started
            if now - last_report >= _REPORT_SECONDS or self.done >= self.recipe.steps:
                last_report = now
                self._report(loss)
            if now - last_save >= _CHECKPOINT_SECONDS:
                last_save = now
                self.save()
        self.save()

    def _pool(self) -> float:
        """One pool: `recipe.pool` steps on worksheets drawn together and sorted by length."""
        recipe = self.recipe
        if recipe.shape_at(self.done) != self.network.shape:
            torch.manual_seed(recipe.seed)
            self._take(grown(self.network, recipe.shape_at(self.done)))
        stage, progress = recipe.at(self.done)
        count, all_open = recipe.pool * recipe.batch, progress >= stage.open_share
        sheets = self.curriculum.draw(self.rng, count, stage.emphasis, all_open)
        sheets.sort(key=lambda sheet: len(sheet.question) + len(sheet.answer))
        groups = [sheets[start : start + recipe.batch] for start in range(0, len(sheets), recipe.batch)]
        self.rng.shuffle(groups)
        batches = [encode_batch(group, self.device) for group in groups]
        results = [self._step(batch) for batch in batches]
        for batch, (_, right) in zip(batches, results, strict=True):
            for sheet, value in zip(batch.sheets, right.tolist(), strict=True):
                self.curriculum.record(sheet.family, sheet.level, value)
        return float(torch.stack([loss for loss, _ in results]).mean())

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One update: the answers' mean loss per byte, and per worksheet 1.0 if all of it was right."""
        stage, progress = self.recipe.at(self.done)
        for optimizer, full in zip(self.optimizers, (stage.muon_rate, stage.adam_rate), strict=True):
            optimizer.param_groups[0]["lr"] = full * rate_at(progress)
        logits = self.network(batch.inputs)
        loss, answer_loss = losses(logits, batch, stage, progress)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wrong = (logits.detach().argmax(-1) != batch.targets) & batch.answers
        self.done += 1
        return answer_loss, (~wrong.any(dim=1)).float()

    def _report(self, loss: float) -> None:
        levels = self.curriculum.mean_by_level()
        rate = self.done / self.seconds
        left = (self.recipe.steps - self.done) / rate
        row = {
            "step": self.done,
            "seconds": round(self.seconds, 1),
            "loss": round(loss, 4),
            "accuracy": {
                f"{family}.{level}": round(self.curriculum.accuracy[family, level], 3)
                for family, level in CELLS
            },
        }
        with self.curve_path.open("a") as curve:
            curve.write(json.dumps(row) + "\n")
        print(
            f"{self.recipe.name}  step {self.done}/{self.recipe.steps}  loss {loss:.3f}  "
            f"right {sum(levels) / len(levels):.1%} ({' '.join(f'{level:.0%}' for level in levels)})  "
            f"{rate * self.recipe.batch:.0f} examples/s  {left / 60:.1f} min left",
            flush=True,
        )

    def save(self) -> None:
        """Writes the checkpoint, replacing the old one in one move."""
        version, state, gauss = self.rng.getstate()
        content = {
            "done": self.done,
            "seconds": self.seconds,
            "shape": list(astuple(self.network.shape)),
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "accuracy": [self.curriculum.accuracy[cell] for cell in CELLS],
            "rng": [version, list(state), gauss],
            "recipe": repr(self.recipe),
        }
        fresh = self.checkpoint_path.with_suffix(".new")
        torch.save(content, fresh)
        fresh.replace(self.checkpoint_path)

    def resume(self) -> bool:
        """Goes back to the checkpoint, if there is one of this very recipe; otherwise starts clean."""
        if not self.checkpoint_path.exists():
            self.curve_path.unlink(missing_ok=True)
            return False
        content: dict[str, Any] = torch.load(
            self.checkpoint_path, map_location=self.device, weights_only=True
        )
        if content["recipe"] != repr(self.recipe):
            raise ValueError(
                f"{self.checkpoint_path} belongs to another recipe; remove it or train elsewhere"
            )
        self._take(Network(Shape(*content["shape"])).to(self.device))
        self.network.load_state_dict(content["network"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.curriculum.accuracy = dict(zip(CELLS, content["accuracy"], strict=True))
        version, state, gauss = content["rng"]
        self.rng.setstate((version, tuple(state), gauss))
        self.done, self.seconds = content["done"], content["seconds"]
        return True
