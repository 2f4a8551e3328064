"""The rules that the manifests keep, as sentences about what breaks them: none for good ones."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from headgate.adapters import channels, settings
from headgate.adapters.telemetry import NAMES
from headgate.gateway import process as gateway_process
from headgate.gateway import server as gateway_server
from headgate.jobs import parent
from headgate.jobs import process as jobs_process
from headgate.worker import process as worker_process
from headgate.worker import server as worker_server
from tests.deploy.edges import allowed, needed, open_pods
from tests.deploy.images import ROOT
from tests.deploy.manifests import (
    Object,
    Workload,
    byte_count,
    config,
    config_text,
    of_kind,
    selects,
    workloads,
)

VERSION = str(re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0])
LAST_WORDS_S = {"headgate.gateway": 2.0, "headgate.worker": 2.0, "headgate.jobs": parent.STUCK_S + 2}
"""What a program may take after its drain."""
SERVICES = {
    "headgate.gateway": {"", gateway_server.SERVICE},
    "headgate.worker": {"", worker_server.SERVICE},
    "headgate.jobs": set[str](),
}
"""Whose health each program tells."""
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "headgate.gateway": gateway_process._parser,
    "headgate.worker": worker_process._parser,
    "headgate.jobs": jobs_process._parser,
}
LOG_BYTES = 128 << 20
"""What a kubelet may keep of a container's log, which counts as its storage: two files of 50 MiB, as some are
told, and three packed ones."""
OF_OTHERS = {"HF_HUB_OFFLINE", "HF_HOME"}
"""Variables that libraries read."""
MUST_WRITE = {"runner": {"/tmp", "/dev/shm"}}
_REFERENCES = {
    "headgate.gateway": ("gateway.pepper", "redis.url", "jobs.broker"),
    "headgate.jobs": ("redis.url", "jobs.broker"),
    "headgate.worker": (),
}
"""The secrets that each program resolves, and runners the key that they call with."""


def faults(objects: list[Object]) -> list[str]:
    """What is wrong with an overlay, rendered."""
    found = [f"{name}: {fault}" for name, one in workloads(objects).items() for fault in _of_pod(one)]
    found += [
        f"{name}: {fault}"
        for name, one in workloads(objects).items()
        if one.role
        for fault in _of_program(one, objects)
    ]
    return [*found, *_of_namespace(objects), *_of_services(objects), *_of_scaling(objects),
            *_of_monitors(objects), *_of_network(objects)]  # fmt: skip


def _of_pod(one: Workload) -> Iterator[str]:
    pod, container = one.pod, one.container
    told = pod.get("securityContext", {})
    if not told.get("runAsNonRoot") or not told.get("runAsUser"):
        yield "it may run as root"
    if told.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "it has no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "it holds a token of the cluster"
    if pod.get("enableServiceLinks") is not False:
        yield "its environment names the namespace's Services"
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "it shares the node's namespaces"
    if "priorityClassName" not in pod:
        yield "it has no priority"
    told = container.get("securityContext", {})
    if told.get("allowPrivilegeEscalation") is not False or told.get("privileged"):
        yield "it may gain privileges"
    if told.get("readOnlyRootFilesystem") is not True:
        yield "its root can be written to"
    if told.get("capabilities") != {"drop": ["ALL"]}:
        yield "it has capabilities"
    if not re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?", container["image"]):
        yield f"its image is not pinned: {container['image']}"
    yield from _of_resources(one)
    yield from _of_volumes(one)
    yield from _of_probes(one)


def _of_resources(one: Workload) -> Iterator[str]:
    told = one.container.get("resources", {})
    asked, most = told.get("requests", {}), told.get("limits", {})
    for name in ("memory", "ephemeral-storage"):
        if name not in most or asked.get(name) != most[name]:
            yield f"its {name} is not what it asks for"
            return
    if "cpu" not in asked:
        yield "it asks for no CPU"
    held = {"Memory": 0, "": 0}
    for _, volume, _ in one.volumes():
        if "emptyDir" in volume:
            held[volume["emptyDir"].get("medium", "")] += byte_count(volume["emptyDir"].get("sizeLimit", "0"))
    if held["Memory"] > byte_count(most["memory"]) / 2:
        yield "what it may write is more than it has"
    if held[""] + LOG_BYTES > byte_count(most["ephemeral-storage"]):
        yield "its log may evict it"
    if "--maxmemory" in one.flags and byte_count(most["memory"]) < 2 * _mebibytes(one.flags["--maxmemory"]):
        yield "it is killed before it is full"


def _mebibytes(told: str) -> int:
    return int(told.removesuffix("mb")) << 20


def _of_volumes(one: Workload) -> Iterator[str]:
    mounted = [volume["name"] for _, volume, _ in one.volumes()]
    if sorted(mounted) != sorted(volume["name"] for volume in one.pod.get("volumes", ())):
        yield "its volumes are not what it mounts"
    for place, volume, read_only in one.volumes():
        kinds = volume.keys() - {"name"}
        if not kinds <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}:
            yield f"{place} is of the node"
        if kinds == {"emptyDir"} and "sizeLimit" not in volume["emptyDir"]:
            yield f"{place} has no limit"
        if kinds != {"emptyDir"} and not read_only:
            yield f"{place} can be written to"
    if any("subPath" in mount for mount in one.container.get("volumeMounts", ())):
        yield "a subPath never sees a change"
    lacking = MUST_WRITE.get(one.name, set()) - {place for place, volume, _ in one.volumes()}
    if lacking:
        yield f"it cannot write to {', '.join(sorted(lacking))}"


def _of_probes(one: Workload) -> Iterator[str]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = one.container.get(name)
        if probe is None:
            yield f"it has no {name}"
            continue
        port = next((probe[kind]["port"] for kind in ("grpc", "httpGet", "tcpSocket") if kind in probe), None)
        if "exec" not in probe and port not in {*one.ports, *one.ports.values()}:
            yield f"its {name} asks at {port}, where nothing is"
        if "grpc" in probe and probe["grpc"].get("service", "") not in SERVICES[_program(one)]:
            yield f"its {name} asks for a service it does not know"
        if "grpc" in probe and "tls" in str(one.environ | one.files()):
            yield f"its {name} speaks no TLS"


def _program(one: Workload) -> str:
    return (one.stage.start or ("", "", ""))[2]


def _of_program(one: Workload, objects: list[Object]) -> Iterator[str]:
    container, program = one.container, _program(one)
    if not container["image"].endswith(f"headgate-{one.role}:{VERSION}"):
        yield f"its image is not of {VERSION}"
    if "command" in container:
        yield "its command is not the image's"
        return
    if one.pod["securityContext"].get("runAsUser") != int(one.stage.user.partition(":")[0]):
        yield "its user is not the image's"
    at = one.command.index(program) + 1
    try:
        PARSERS[program]().parse_args(one.command[at:])
    except SystemExit:
        yield f"its program refuses {' '.join(one.command[at:])}"
    ports = {int(one.flags[name].rpartition(":")[2]) for name in one.flags if name.endswith("listen")}
    if ports != set(one.ports.values()):
        yield f"it listens on {sorted(ports)}, and its ports are {sorted(one.ports.values())}"
    yield from _of_settings(one, objects)
    told = config(objects).gateway
    wait_s = 0.0 if program == "headgate.jobs" else told.lame_duck_s
    wait_s += one.pre_stop_s + told.drain_s + LAST_WORDS_S[program]
    if one.name != "reconciler" and one.pod["terminationGracePeriodSeconds"] < wait_s:
        yield f"it is killed before its drain of {wait_s:g} s is over"


def _of_settings(one: Workload, objects: list[Object]) -> Iterator[str]:
    try:
        text = config_text(objects)
        environ = {name: value for name, value in one.environ.items() if name not in OF_OTHERS}
        told = settings.read(text, Path("/etc/headgate/headgate.yaml"), environ).config
    except settings.ConfigError as error:
        yield f"its config: {error}"
        return
    if stray := [name for name in environ if not name.startswith(settings.PREFIX)]:
        yield f"nobody reads {', '.join(stray)}"
    if one.files().get("/etc/headgate/headgate.yaml") != "headgate-config/headgate.yaml":
        yield "it does not see its config"
    seen = set(one.files())
    secrets = [*_REFERENCES[_program(one)], *(["jobs.runner_key"] if one.name == "runner" else [])]
    wanted = set(filter(None, (_reference(told, path) for path in secrets)))
    if _program(one) == "headgate.gateway" and told.gateway.tls is not None:
        wanted |= {told.gateway.tls.certificate, told.gateway.tls.key}
    if "--root-certificate" in one.flags:
        wanted.add(one.flags["--root-certificate"])
    if wanted != seen - {"/etc/headgate/headgate.yaml"}:
        yield f"it sees {sorted(seen)} and reads {sorted(wanted)}"
    model = told.pool.get(one.flags.get("--model", ""))
    if model and model.source.startswith("/") and not any(
        model.source.startswith(place) for place, _, _ in one.volumes()
    ):  # fmt: skip
        yield f"it does not see {model.source}"


def _reference(told: Any, path: str) -> str | None:
    for step in path.split("."):
        told = getattr(told, step)
    if told is None:
        return None
    kind, _, where = str(told).partition(":")
    return where if kind == "file" else f"a variable for {path}"


def _of_namespace(objects: list[Object]) -> Iterator[str]:
    (namespace,) = of_kind(objects, "Namespace").values()
    if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "namespace: Pod Security is not restricted"
    for one in objects:
        cluster_wide = one["kind"] in ("Namespace", "PriorityClass")
        if not cluster_wide and one["metadata"].get("namespace") != namespace["metadata"]["name"]:
            yield f"{one['kind']} {one['metadata']['name']}: is in another namespace"
    for name, one in workloads(objects).items():
        if one.pod.get("priorityClassName") not in of_kind(objects, "PriorityClass"):
            yield f"{name}: its priority is none of ours"
        if not selects(one.deployment["spec"]["selector"], one.labels):
            yield f"{name}: does not select its own pods"


def _of_services(objects: list[Object]) -> Iterator[str]:
    for name, service in of_kind(objects, "Service").items():
        meant = [
            one
            for one in workloads(objects).values()
            if selects({"matchLabels": service["spec"]["selector"]}, one.labels)
        ]
        if [one.name for one in meant] != [name]:
            yield f"service {name}: means {[one.name for one in meant]}"
        for one in meant:
            for port in service["spec"]["ports"]:
                if port["targetPort"] not in one.ports:
                    yield f"service {name}: {port['targetPort']} is no port of its pods"
            if one.role and service["spec"].get("clusterIP") != "None":
                yield f"service {name}: is not headless, and one pod would get a caller's every call"


def _of_scaling(objects: list[Object]) -> Iterator[str]:
    told = config(objects)
    pods = workloads(objects)
    for name, budget in of_kind(objects, "PodDisruptionBudget").items():
        if [one for one in pods if selects(budget["spec"]["selector"], pods[one].labels)] != [name]:
            yield f"disruption budget {name}: means other pods"
    for name, one in pods.items():
        if _grpc(one) and name not in of_kind(objects, "PodDisruptionBudget"):
            yield f"{name}: any number of it may be evicted"
        if _grpc(one) and one.deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
            yield f"{name}: a rollout leaves fewer than there were"
        if (
            _grpc(one)
            and one.deployment["spec"].get("minReadySeconds", 0) * 1000 <= channels.RESOLVE_AGAIN_MS
        ):
            yield f"{name}: a rollout is quicker than its callers look its name up"
        spread = one.pod.get("topologySpreadConstraints", ())
        if one.role and not spread:
            yield f"{name}: all of it may lie on one node"
        if not all(selects(rule["labelSelector"], one.labels) for rule in spread):
            yield f"{name}: its spread counts other pods"
    scalers = of_kind(objects, "HorizontalPodAutoscaler") | of_kind(objects, "ScaledObject")
    for name, scaler in scalers.items():
        target = scaler["spec"]["scaleTargetRef"]["name"]
        if target not in pods or target != name:
            yield f"scaler {name}: there is no {target}"
            continue
        if "replicas" in pods[name].deployment["spec"]:
            yield f"{name}: each apply undoes what its scaler did"
        at_once = told.pool[pods[name].flags["--model"]].slots if "--model" in pods[name].flags else 0
        at_once = at_once or told.jobs.concurrency
        for trigger in scaler["spec"].get("triggers", ()):
            threshold = float(trigger["metadata"]["threshold"])
            if not at_once / 2 <= threshold <= at_once:
                yield f"scaler {name}: {threshold:g} in work is no measure for a pod of {at_once}"
            for metric in re.findall(r"headgate_\w+", trigger["metadata"]["query"]):
                if metric not in NAMES:
                    yield f"scaler {name}: there is no metric {metric}"
            seen = re.findall(r'headgate_\w+(?:\{namespace="([^"]*)")?', trigger["metadata"]["query"])
            if set(seen) != {scaler["metadata"]["namespace"]}:
                yield f"scaler {name}: counts what other namespaces have to do"
            for model in re.findall(r'model="(\w+)"', trigger["metadata"]["query"]):
                if model != pods[name].flags.get("--model"):
                    yield f"scaler {name}: reads the figures of {model}"
        for metric in scaler["spec"].get("metrics", ()):
            if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] not in NAMES:
                yield f"scaler {name}: there is no metric {metric['pods']['metric']['name']}"


def _grpc(one: Workload) -> bool:
    return "grpc" in one.ports


def _of_monitors(objects: list[Object]) -> Iterator[str]:
    monitors = of_kind(objects, "PodMonitor")
    for name, one in workloads(objects).items():
        watching = [
            told["spec"] for told in monitors.values() if selects(told["spec"]["selector"], one.labels)
        ]
        if monitors and len(watching) != 1:
            yield f"{name}: {len(watching)} monitors scrape it"
        for spec in watching:
            for endpoint in spec["podMetricsEndpoints"]:
                if endpoint["port"] not in one.ports:
                    yield f"{name}: a monitor scrapes {endpoint['port']}, which is no port of it"
            expected = {"headgate.gateway": "headgate-gateway", "headgate.worker": "headgate-worker",
                        "headgate.jobs": "headgate-jobs"}[_program(one)]  # fmt: skip
            if one.labels.get(spec.get("jobLabel", "")) != expected:
                yield f"{name}: alert rules call its job {expected}"


def _of_network(objects: list[Object]) -> Iterator[str]:
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if not any(one["spec"] == everything for one in of_kind(objects, "NetworkPolicy").values()):
        yield "network: nothing is denied by default"
    for direction, pods in open_pods(objects).items():
        if pods:
            yield f"network: {direction} of {', '.join(pods)} is open"
    for way, have, need in zip(("send", "get"), allowed(objects), needed(objects), strict=True):
        for source, target, port in sorted(need - have):
            yield f"network: {source} cannot {way} to {target}:{port}"
        for source, target, port in sorted(have - need):
            yield f"network: {source} may {way} to {target}:{port}, and need not"
