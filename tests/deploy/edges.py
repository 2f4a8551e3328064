"""Who may speak with whom: what the network policies allow, and what the programs need."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tests.deploy.manifests import Object, Workload, config, of_kind, selects, workloads

Edge = tuple[str, str, int]
"""From, to, port. A workload's name, or a peer outside: its policy's words."""

CALLERS = "namespaces headgate.dev/caller=true"
PROMETHEUS = "namespaces kubernetes.io/metadata.name=monitoring, pods app.kubernetes.io/name=prometheus"
DNS = ("namespaces kubernetes.io/metadata.name=kube-system, pods k8s-app=kube-dns", "169.254.20.10/32")
"""The cluster's, and a node's own cache, which no selector of pods means."""
_DNS_PORT = 53


def allowed(objects: list[Object]) -> tuple[set[Edge], set[Edge]]:
    """What pods may send, and what they may get."""
    pods = workloads(objects)
    sent: set[Edge] = set()
    got: set[Edge] = set()
    for policy in of_kind(objects, "NetworkPolicy").values():
        spec = policy["spec"]
        for one in _selected(spec["podSelector"], pods):
            if "Egress" in spec["policyTypes"]:
                sent |= {(one, peer, port) for peer, port in _peers(spec.get("egress", ()), "to", pods)}
            if "Ingress" in spec["policyTypes"]:
                got |= {(peer, one, port) for peer, port in _peers(spec.get("ingress", ()), "from", pods)}
    return sent, got


def open_pods(objects: list[Object]) -> dict[str, list[str]]:
    """Pods that no policy of a direction selects: they would speak with everybody."""
    found = {}
    for direction in ("Ingress", "Egress"):
        closed = {
            one
            for policy in of_kind(objects, "NetworkPolicy").values()
            if direction in policy["spec"]["policyTypes"]
            for one in _selected(policy["spec"]["podSelector"], workloads(objects))
        }
        found[direction] = sorted(workloads(objects).keys() - closed)
    return found


def needed(objects: list[Object]) -> tuple[set[Edge], set[Edge]]:
    """What the config, the flags and the secrets make the programs call, and who is to call them."""
    pods = workloads(objects)
    inner = set(_inner(objects, pods))
    sent = (
        inner
        | {(one, server, _DNS_PORT) for one in pods for server in DNS}
        | set(_to_redis_outside(objects, pods))
    )
    got = inner | {(CALLERS, "gateway", pods["gateway"].ports["grpc"])}
    if of_kind(objects, "PodMonitor"):
        got |= {(PROMETHEUS, name, one.ports["metrics"]) for name, one in pods.items()}
    return sent, got


def _selected(selector: dict[str, Any], pods: dict[str, Workload]) -> list[str]:
    return [name for name, one in pods.items() if selects(selector, one.labels)]


def _peers(rules: Any, side: str, pods: dict[str, Workload]) -> Iterator[tuple[str, int]]:
    for rule in rules:
        ports = [one["port"] for one in rule.get("ports") or [{"port": -1}]]
        for peer in rule.get(side) or [{}]:
            for name in _named(peer, pods):
                yield from ((name, port) for port in ports)


def _named(peer: dict[str, Any], pods: dict[str, Workload]) -> list[str]:
    if "ipBlock" in peer:
        return [peer["ipBlock"]["cidr"]]
    if "namespaceSelector" in peer:
        words = ["namespaces " + _words(peer["namespaceSelector"])]
        words += ["pods " + _words(peer["podSelector"])] if "podSelector" in peer else []
        return [", ".join(words)]
    return _selected(peer["podSelector"], pods) if "podSelector" in peer else ["everybody"]


def _words(selector: dict[str, Any]) -> str:
    labels = selector.get("matchLabels", {})
    return ",".join(f"{key}={value}" for key, value in labels.items()) or json.dumps(selector)


def _inner(objects: list[Object], pods: dict[str, Workload]) -> Iterator[Edge]:
    for model in config(objects).pool.values():
        assert model.worker is not None
        yield from _to_service("gateway", model.worker, objects, pods)
    yield from _to_service("runner", pods["runner"].flags["--gateway"], objects, pods)
    url = _redis(objects)
    if url:
        where = f"{url.hostname}:{url.port or 6379}"
        for name in _of_redis(pods):
            yield from _to_service(name, where, objects, pods)


def _to_service(
    source: str, address: str, objects: list[Object], pods: dict[str, Workload]
) -> Iterator[Edge]:
    host, _, port = address.rpartition(":")
    service = of_kind(objects, "Service")[host]["spec"]
    (told,) = [one for one in service["ports"] if one["port"] == int(port)]
    for name in _selected({"matchLabels": service["selector"]}, pods):
        yield source, name, pods[name].ports.get(told["targetPort"], 0)


def _redis(objects: list[Object]) -> Any:
    """The URL, where the manifests bring a Redis; else None."""
    secrets = of_kind(objects, "Secret").get("headgate-secrets")
    if secrets is None:
        return None
    return urlsplit(base64.b64decode(secrets["data"]["redis-url"]).decode())


def _of_redis(pods: dict[str, Workload]) -> list[str]:
    return [name for name, one in pods.items() if "headgate-secrets/redis-url" in one.files().values()]


def _to_redis_outside(objects: list[Object], pods: dict[str, Workload]) -> Iterator[Edge]:
    """Somebody else's Redis has the address that overlays/prod/network.yaml tells to set."""
    if _redis(objects) is None:
        yield from ((name, "192.0.2.10/32", 6379) for name in _of_redis(pods))
