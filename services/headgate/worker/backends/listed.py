"""What the public price list says about an upstream's model."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from genai_prices import Usage, calc_price

from headgate.worker.backends.base import Price

_MILLION = 1_000_000
_NANO = Decimal(1_000_000_000)


@dataclass(frozen=True, slots=True)
class Listed:
    """Price, and context in tokens; None and 0 where the list does not know the model."""

    price: Price | None
    context_tokens: int


UNLISTED = Listed(None, 0)


def look_up(model: str, base_url: str) -> Listed:
    """The list's entry for a model of the vendor that serves `base_url`; UNLISTED for any other server."""
    try:
        read = calc_price(Usage(input_tokens=_MILLION), model, provider_api_url=base_url)
        written = calc_price(Usage(output_tokens=_MILLION), model, provider_api_url=base_url)
    except LookupError:
        return UNLISTED
    price = Price(int(read.total_price * _NANO), int(written.total_price * _NANO))
    return Listed(price, read.model.context_window or 0)
