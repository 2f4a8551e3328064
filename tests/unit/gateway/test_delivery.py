"""What a caller is told, and when it counts as told."""

from __future__ import annotations

from headgate.adapters.telemetry import Metrics
from headgate.adapters.traces import Span
from headgate.gateway.answer_cache import AnswerCache
from headgate.gateway.delivery import Delivery
from headgate.gateway.journey import Event
from headgate.gateway.reuse import Reuse
from tests.unit.gateway.three_models import journey, three_workers


class Events(Span):
    """A span that keeps the names of its events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, attributes: object = None) -> None:
        self.names.append(name)


async def test_a_stream_s_first_text_is_timed_and_traced_once_and_not_what_is_held_back() -> None:
    workers, metrics, span = three_workers(), Metrics(), Events()
    one = Delivery(Reuse(AnswerCache(None, 1), workers, metrics), metrics)

    async def deliver(_event: Event) -> None: ...

    on_its_way = journey(deliver=deliver, model="small", holding=True, span=span)
    name, labels = "headgate_time_to_first_token_seconds_count", {"model": "small"}
    await one.text(on_its_way, "a draft")
    assert metrics.registry.get_sample_value(name, labels) is None
    assert span.names == []
    on_its_way.holding = False
    for text in ("", "a ", "b "):
        await one.text(on_its_way, text)
    assert metrics.registry.get_sample_value(name, labels) == 1
    assert span.names == ["headgate.first_text"]
    collected = journey(model="small")
    await one.text(collected, "in one piece")
    assert metrics.registry.get_sample_value(name, labels) == 1
    await workers.close()
