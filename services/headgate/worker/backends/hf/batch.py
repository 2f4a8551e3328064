"""Decodes the sequences of all requests together: a token each in one forward pass.

A request joins at the next step, once its prompt was read in a pass of its own; one that ends leaves at once.
Where a model's caches cannot be joined (`Lanes.can_join`), every request takes its passes alone, in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headgate.worker.backends.hf.checkpoint import Checkpoint
from headgate.worker.backends.hf.job import Job, engine_failed, told
from headgate.worker.backends.hf.lanes import Lanes
from headgate.worker.backends.hf.row import Row


@dataclass(slots=True, eq=False)
class _Group:
    """Rows that share passes, in the order of their lanes."""

    lanes: Lanes
    rows: list[Row]

    def keep(self, stays: Callable[[Row], bool]) -> None:
        """Lets the other rows go. `stays` is asked once for each; what it raises ends that row."""
        going = [index for index, row in enumerate(self.rows) if _holds(stays, row)]
        if len(going) < len(self.rows):
            self.rows = [self.rows[index] for index in going]
            if going:
                self.lanes.keep(going)

    def step(self) -> None:
        """A token for each row that someone still waits for."""
        self.keep(lambda row: row.job.wanted())
        if self.rows:
            logits = self.lanes.step([row.written[-1] for row in self.rows])
            of = dict(zip(self.rows, logits, strict=True))
            self.keep(lambda row: row.draw(of[row]))


def _holds(stays: Callable[[Row], bool], row: Row) -> bool:
    with told(row.job):
        return stays(row)
    return False


class Batch:
    """The decoder of a model without a draft model."""

    def __init__(self, target: Checkpoint) -> None:
        self._target = target
        self._groups: list[_Group] = []

    @property
    def busy(self) -> bool:
        """Whether any answer is in work."""
        return bool(self._groups)

    def begin(self, job: Job) -> None:
        """Reads the prompt and writes the first token."""
        if not job.wanted():
            return
        lanes, row = Lanes(self._target.model), Row(self._target, job)
        if row.draw(lanes.read(row.prompt)[0]):
            self._place(_Group(lanes, [row]))

    def _place(self, newcomer: _Group) -> None:
        if self._groups and newcomer.lanes.can_join():
            self._groups[0].lanes.join(newcomer.lanes)
            self._groups[0].rows += newcomer.rows
        else:
            self._groups.append(newcomer)

    def step(self) -> None:
        """A token for every row."""
        for group in self._groups:
            try:
                group.step()
            except Exception as error:
                for row in group.rows:
                    row.job.post(engine_failed(error))
                group.rows = []
        self._groups = [group for group in self._groups if group.rows]
