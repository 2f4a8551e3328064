"""What the public price list says about an upstream's model."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from genai_prices import Usage, calc_price

from headgate.worker.backends.base import Price

_TOKENS = 1000
"""A short call: some models cost more per token once a prompt is long."""
_SCALE = Decimal(1_000_000_000) * 1_000_000 / _TOKENS
"""From dollars for that call to nano-dollars per million tokens."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Price, and context in tokens; None and 0 where the list does not know the model."""

    price: Price | None
    context_tokens: int


UNLISTED = Listed(None, 0)


def look_up(model: str, base_url: str) -> Listed:
    """The list's entry for a model of the vendor that serves `base_url`; UNLISTED for any other server.

    The price is that of short prompts.
    """
    try:
        read = calc_price(Usage(input_tokens=_TOKENS), model, provider_api_url=base_url)
        written = calc_price(Usage(output_tokens=_TOKENS), model, provider_api_url=base_url)
    except LookupError:
        return UNLISTED
    price = Price(int(read.input_price * _SCALE), int(written.output_price * _SCALE))
    return Listed(price, read.model.context_window or 0)
