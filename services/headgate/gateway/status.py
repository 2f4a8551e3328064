"""The answer to `GetStatus`: what a running gateway has loaded and what it lacks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from headgate.adapters.telemetry import Metrics
from headgate.gateway import convert
from headgate.gateway.workers import Worker, Workers
from headgate.router.bundle import Bundle
from headgate.router.types import Certificate, Objective, Pool
from headgate.v1 import admin_pb2, types_pb2

Status = admin_pb2.GetStatusResponse


def report(
    workers: Workers,
    bundle: Bundle | None,
    objective: Objective,
    missing: Sequence[str],
    metrics: Metrics,
    warnings: Sequence[str] = (),
    semantic: Sequence[admin_pb2.SemanticStatus] = (),
    *,
    draining: bool,
) -> Status:
    """The status; `missing` names degradations, to which a missing certificate is added."""
    certificate = in_force(bundle, workers.pool, objective, time.time())
    names = [*missing, *([] if certificate else ["CERTIFICATE"])]
    return Status(
        models=map(_model, workers),
        bundle_version=bundle.version if bundle else "",
        policy_version=bundle.policy_version if bundle else "",
        certificate=convert.certificate(certificate) if certificate else None,
        degraded=sorted(types_pb2.Degradation.Value(f"DEGRADATION_{name}") for name in names),
        requests=_by_code(metrics),
        draining=draining,
        warnings=warnings,
        semantic=semantic,
    )


def in_force(
    bundle: Bundle | None, pool: Pool | None, objective: Objective, now: float
) -> Certificate | None:
    """The certificate that ordinary queries are covered by: the loosest that meets the objective; or None."""
    if bundle is None or pool is None:
        return None
    valid = [c for c in bundle.certificates if c.valid_at(now) and _speaks_of(c, pool)]
    most = objective.risk_target if objective.risk_target is not None else 1.0
    met = [c for c in valid if c.risk_target <= most]
    return max(met, key=lambda c: c.risk_target, default=None)


def _speaks_of(certificate: Certificate, pool: Pool) -> bool:
    versions = {model.name: model.version for model in pool.models}
    entries = (entry.partition("@") for entry in certificate.models)
    same = all(not version or versions.get(name, version) == version for name, _, version in entries)
    return same and certificate.reference == pool.reference


def _model(worker: Worker) -> admin_pb2.ModelStatus:
    return admin_pb2.ModelStatus(
        model=worker.name,
        worker=worker.address,
        serving=worker.serving,
        version=worker.model.version if worker.model else "",
    )


def _by_code(metrics: Metrics) -> Counter[str]:
    counts: Counter[str] = Counter()
    for family in metrics.requests.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                counts[sample.labels["code"]] += int(sample.value)
    return counts
