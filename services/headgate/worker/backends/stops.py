"""Stop strings: the answer ends before the one that is complete first, wherever chunk borders fall."""

from __future__ import annotations


class StopStrings:
    """Cuts a text that comes in pieces before the first stop string; the strings are not empty.

    What may yet become a stop string is held back until the next pieces decide.
    """

    def __init__(self, strings: tuple[str, ...]) -> None:
        self._strings = strings
        self._held = ""
        self.met = False

    def feed(self, piece: str) -> str:
        """The text that is now sure to be part of the answer. Nothing after a stop string was met."""
        if self.met:
            return ""
        text = self._held + piece
        met = [(start + len(string), start) for string in self._strings if (start := text.find(string)) >= 0]
        if met:
            self.met, self._held = True, ""
            return text[: min(met)[1]]
        sure = len(text) - self._undecided(text)
        self._held = text[sure:]
        return text[:sure]

    def rest(self) -> str:
        """What was held back, once no more pieces come."""
        rest, self._held = self._held, ""
        return rest

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that some stop string begins with."""
        return max((_overlap(text, string) for string in self._strings), default=0)


def _overlap(text: str, string: str) -> int:
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)
