"""Under which terms the brain decides, and what becomes of a brain that fails."""

from __future__ import annotations

import pytest

from headgate.adapters.config import CascadeConfig
from headgate.adapters.status_map import ModelUnknownError
from headgate.adapters.telemetry import Metrics
from headgate.gateway.admission import Caller
from headgate.gateway.bundle_store import BundleStore
from headgate.gateway.decider import Decider
from headgate.gateway.journey import Arrival, Journey
from headgate.gateway.sessions import Sessions
from headgate.gateway.workers import Workers
from headgate.router.cascade import Finished
from headgate.router.types import Draft, Objective, Pool, Query
from headgate.v1 import types_pb2
from tests.unit.gateway.three_models import journey, three_workers


def _decider(workers: Workers, metrics: Metrics | None = None) -> Decider:
    return Decider(workers, BundleStore(), Sessions(None), metrics or Metrics(), None, CascadeConfig())


async def test_an_unknown_model_is_answered_with_the_names_that_the_tenant_may_use() -> None:
    workers = three_workers()
    for caller, names in (
        (Caller("acme"), "small, middle, large"),
        (Caller("beta", frozenset(["large"])), "large"),
    ):
        asked = Journey(Arrival(caller, 0.0, 60.0), types_pb2.Query(model="hugest"), "r")
        with pytest.raises(ModelUnknownError) as caught:
            _decider(workers)._pool(asked)
        assert str(caught.value) == f"query.model: the pool has no such model; there are: {names}"
    await workers.close()


class Fails:
    """A brain with a fault."""

    def feed(self, event: object) -> object:
        if isinstance(event, Finished):
            raise ZeroDivisionError
        return event


async def test_a_brain_that_fails_is_counted_over_a_decision_and_over_a_draft() -> None:
    workers, metrics = three_workers(priced=True), Metrics()
    one = _decider(workers, metrics)

    def counted() -> list[float | None]:
        name = "headgate_brain_failures_total"
        return [metrics.registry.get_sample_value(name, {"over": over}) for over in ("decision", "draft")]

    assert counted() == [0, 0]
    draft = Draft("small", "2 + 2 = 4", finished=True, declined=False, tokens=2, logprobs=())
    one.next(journey(), Fails(), Finished("small", draft))  # type: ignore[arg-type]
    assert counted() == [0, 1]
    one._decided.decide = lambda *_, **__: 1 / 0  # type: ignore[assignment,method-assign]
    query = Query(text="2 + 2", objective=Objective(risk_target=0.05))
    one._first_command(journey(), query, workers.pool or Pool((), ""))
    assert counted() == [1, 1]
    await workers.close()
