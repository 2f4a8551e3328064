"""From a conversation to the tokens that a model continues."""

from __future__ import annotations

from typing import Any

from headgate.worker.backends.base import Conversation, RequestRejectedError, Role

_NAMES = {Role.SYSTEM: "System", Role.USER: "User", Role.ASSISTANT: "Assistant"}
PLAIN_STOPS = ("\nUser:", "\nSystem:")
"""Where a model without a chat template begins to write the other speakers' turns."""


def encode(tokenizer: Any, conversation: Conversation) -> list[int]:
    """Token ids by the tokenizer's chat template, or of a plain transcript where it has none.

    Raises RequestRejectedError for a conversation that the template does not take.
    """
    if not tokenizer.chat_template:
        return _open_ended(tokenizer, tokenizer(_transcript(conversation))["input_ids"])
    turns = [{"role": turn.role.value, "content": turn.text} for turn in conversation]
    try:
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:
        # Templates refuse by exceptions of their own, such as a system turn where they know none.
        raise RequestRejectedError(
            f"the model's chat template does not take this order of turns ({type(error).__name__})"
        ) from None
    return list(ids)


def stops(tokenizer: Any) -> tuple[str, ...]:
    """Stop strings that every answer has, because of how the prompt is written."""
    return () if tokenizer.chat_template else PLAIN_STOPS


def _transcript(conversation: Conversation) -> str:
    turns = [f"{_NAMES[turn.role]}: {turn.text}\n" for turn in conversation]
    return "".join(turns) + f"{_NAMES[Role.ASSISTANT]}:"


def _open_ended(tokenizer: Any, ids: list[int]) -> list[int]:
    """Without the end token that some tokenizers put behind every text."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
