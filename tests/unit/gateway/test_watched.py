from __future__ import annotations

from headgate.gateway.watched import Watched


def test_tokens_without_text_go_with_the_next_piece() -> None:
    watched = Watched()
    assert not watched.add("", [-1.0]).text
    assert list(watched.add("é", [-2.0]).logprobs) == [-1.0, -2.0]
    assert [(piece.text, list(piece.logprobs)) for piece in watched.pieces] == [("é", [-1.0, -2.0])]


def test_another_attempt_begins_with_nothing_and_leaves_the_pieces_of_the_last_one_to_who_holds_them() -> (
    None
):
    watched = Watched()
    watched.add("a", [-1.0])
    watched.add("", [-1.0])
    held = watched.pieces
    watched.clear()
    assert list(watched.add("b", ()).logprobs) == []
    assert [piece.text for piece in held] == ["a"]
