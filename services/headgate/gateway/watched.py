"""What a caller that watches gets to see of an attempt, beside its text."""

from __future__ import annotations

from collections.abc import Iterable

from headgate.v1.router_pb2 import Delta


class Watched:
    """The text that the running attempt wrote, in the pieces in which it came, with its log-probabilities."""

    def __init__(self) -> None:
        self.pieces: list[Delta] = []
        self._early: list[float] = []

    def add(self, text: str, logprobs: Iterable[float]) -> Delta:
        """A piece as it is told. Tokens that show no text of their own go with the next piece."""
        told = [*self._early, *logprobs]
        self._early = [] if text else told
        piece = Delta(text=text, logprobs=told)
        if text:
            self.pieces.append(piece)
        return piece

    def clear(self) -> None:
        """Another attempt begins."""
        self.pieces, self._early = [], []
