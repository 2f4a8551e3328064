"""What a gateway process has in force and how it is, as gauges that are read when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headgate.adapters.telemetry import Fact
from headgate.gateway import status
from headgate.gateway.workers import Worker, Workers
from headgate.router.bundle import Bundle
from headgate.router.types import Certificate, Objective


def of_policy(bundle: Bundle | None, workers: Workers, objective: Objective, now: float) -> Iterator[Fact]:
    """The risk target and what is promised; `now` in POSIX seconds, as all instants are."""
    if objective.risk_target is not None:
        yield "headgate_risk_target", (), objective.risk_target
    certificate = status.in_force(bundle, workers.pool, objective, now)
    if certificate is not None:
        yield from _of_certificate(certificate)


def of_bundle(bundle: Bundle | None, loaded: float) -> Iterator[Fact]:
    """Which bundle decides, and since when; nothing where none does."""
    if bundle is not None:
        yield "headgate_bundle_info", (bundle.version, bundle.policy_version), 1
        yield "headgate_bundle_loaded_timestamp_seconds", (), loaded


def of_config(digest: str, loaded: float, most: int) -> Iterator[Fact]:
    """Which config is in force, and since when."""
    yield "headgate_config_info", (digest,), 1
    yield "headgate_config_loaded_timestamp_seconds", (), loaded
    yield "headgate_requests_limit", (), most


def of_health(workers: Workers, missing: Sequence[str], *, draining: bool) -> Iterator[Fact]:
    """What requests lack, and how each model's worker is seen from here."""
    yield "headgate_draining", (), draining
    for name in ("CACHE", "LEDGER", "WORKER"):
        yield "headgate_degraded", (name,), name in missing
    for worker in workers:
        yield from _of_worker(worker)


def _of_worker(worker: Worker) -> Iterator[Fact]:
    yield "headgate_breaker_open", (worker.name,), worker.breaker.open
    yield "headgate_retries_left", (worker.name,), worker.retries.left
    yield "headgate_model_calls", (worker.name,), len(worker.calls)


def _of_certificate(certificate: Certificate) -> Iterator[Fact]:
    yield "headgate_certificate_info", (certificate.id, certificate.reference), 1
    yield "headgate_certificate_risk_target", (), certificate.risk_target
    yield "headgate_certificate_confidence", (), certificate.confidence
    yield "headgate_certificate_created_timestamp_seconds", (), certificate.created
    if certificate.expires is not None:
        yield "headgate_certificate_expires_timestamp_seconds", (), certificate.expires
