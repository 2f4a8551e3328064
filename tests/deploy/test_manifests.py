"""The Kubernetes manifests: as kustomize renders them, in the API's own words, and under our rules.

What was rendered is committed, with a digest of its sources, so that these tests need no kubectl; where there
is one, it must render the same.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.k8s_rules import faults
from tests.deploy.manifests import K8S, OVERLAYS, Object, byte_count, config, load, of_kind, workloads

SCHEMAS = Path(__file__).with_name("schemas")
OF_OTHERS = {
    "ScaledObject": "scaled_object.json",
    "PodMonitor": "pod_monitor.json",
    "PrometheusRule": "prometheus_rule.json",
}
VERSIONS = ("1.31", "1.34", "1.37")
"""Of Kubernetes: the oldest that has all that is used, and the newest that the validator knows."""
GUIDE = (K8S.parents[1] / "docs/howto/run-on-kubernetes.md").read_text()


def _render() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", K8S / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RENDER = _render()


def _read(text: str) -> list[Any]:
    return list(yaml.load_all(text, yaml.CSafeLoader))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_rendered_is_of_these_sources(overlay: str) -> None:
    text = (K8S / f"rendered/{overlay}.yaml").read_text()
    head, rest = text.split("\n", 1)
    assert head + "\n" == RENDER.head(overlay), "python deploy/k8s/render.py"
    if shutil.which("kubectl"):
        assert _read(rest) == _read(RENDER.rendered(overlay)), "python deploy/k8s/render.py"


def test_every_overlay_is_rendered() -> None:
    assert {path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml")} == set(OVERLAYS)
    assert set(RENDER.OVERLAYS) == set(OVERLAYS)


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    for name in ("base", "components", "overlays"):
        shutil.copytree(K8S / name, tmp_path / name)
    assert RENDER.digest(tmp_path) == RENDER.digest()
    changed = tmp_path / "base/gateway.yaml"
    changed.write_text(changed.read_text().replace("384Mi", "385Mi"))
    assert RENDER.digest(tmp_path) != RENDER.digest()


def test_the_rules_are_the_alerts() -> None:
    assert RENDER.RULES.read_text() == RENDER.rules(), "python deploy/k8s/render.py"


def _check(one: Object, version: str) -> None:
    if one["kind"] in OF_OTHERS:
        jsonschema.validate(one, json.loads((SCHEMAS / OF_OTHERS[one["kind"]]).read_text()))
    else:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_would_take_it(overlay: str, version: str) -> None:
    for one in load(overlay):
        _check(one, version)


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "HorizontalPodAutoscaler", *OF_OTHERS])
def test_a_misspelt_field_is_refused(kind: str) -> None:
    one = next(iter(of_kind(load("prod"), kind).values()))
    one["spec"]["sepc"] = {}
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        _check(one, VERSIONS[-1])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_keeps_the_rules(overlay: str) -> None:
    assert faults(load(overlay)) == []


def _pod(objects: list[Object], name: str) -> Any:
    return workloads(objects)[name].pod


def _container(objects: list[Object], name: str) -> Any:
    return workloads(objects)[name].container


def _policy(objects: list[Object], name: str) -> Any:
    return of_kind(objects, "NetworkPolicy")[name]["spec"]


def _config(objects: list[Object], old: str, new: str) -> None:
    data = of_kind(objects, "ConfigMap")["headgate-config"]["data"]
    assert old in data["headgate.yaml"]
    data["headgate.yaml"] = data["headgate.yaml"].replace(old, new)


def _scaler(objects: list[Object], name: str) -> Any:
    return of_kind(objects, "ScaledObject")[name]["spec"]["triggers"][0]["metadata"]


Mutant = Callable[[list[Object]], object]
MUTANTS: list[tuple[str, Mutant]] = [
    ("gateway: it may run as root", lambda o: _pod(o, "gateway")["securityContext"].pop("runAsNonRoot")),
    ("gateway: its user is not", lambda o: _pod(o, "gateway")["securityContext"].update(runAsUser=1000)),
    ("runner: it has no seccomp", lambda o: _pod(o, "runner")["securityContext"].pop("seccompProfile")),
    ("runner: it holds a token", lambda o: _pod(o, "runner").update(automountServiceAccountToken=True)),
    ("gateway: its environment", lambda o: _pod(o, "gateway").pop("enableServiceLinks")),
    ("gateway: it shares", lambda o: _pod(o, "gateway").update(hostNetwork=True)),
    (
        "gateway: its root can be",
        lambda o: _container(o, "gateway")["securityContext"].pop("readOnlyRootFilesystem"),
    ),
    ("runner: it may gain", lambda o: _container(o, "runner")["securityContext"].update(privileged=True)),
    (
        "runner: it has capabilities",
        lambda o: _container(o, "runner")["securityContext"].update(
            capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}
        ),
    ),
    (
        "gateway: its image is not pinned",
        lambda o: _container(o, "gateway").update(image="headgate-gateway:latest"),
    ),
    (
        "gateway: its image is not of",
        lambda o: _container(o, "gateway").update(image="headgate-gateway:0.0.9"),
    ),
    ("gateway: its memory", lambda o: _container(o, "gateway")["resources"]["limits"].pop("memory")),
    (
        "worker-small: it asks for no CPU",
        lambda o: _container(o, "worker-small")["resources"]["requests"].pop("cpu"),
    ),
    ("runner: /tmp has no limit", lambda o: _pod(o, "runner")["volumes"][2]["emptyDir"].pop("sizeLimit")),
    (
        "runner: what it may write",
        lambda o: _pod(o, "runner")["volumes"][2]["emptyDir"].update(sizeLimit="1Gi"),
    ),
    ("runner: it cannot write to /dev/shm", lambda o: _container(o, "runner")["volumeMounts"].pop()),
    ("gateway: its volumes are not", lambda o: _container(o, "gateway")["volumeMounts"].pop()),
    (
        "gateway: a subPath",
        lambda o: _container(o, "gateway")["volumeMounts"][0].update(subPath="headgate.yaml"),
    ),
    (
        "gateway: /etc/headgate is of the node",
        lambda o: _pod(o, "gateway")["volumes"][0].update(hostPath={"path": "/etc"}),
    ),
    ("gateway: it has no livenessProbe", lambda o: _container(o, "gateway").pop("livenessProbe")),
    (
        "gateway: its livenessProbe asks at",
        lambda o: _container(o, "gateway")["livenessProbe"]["grpc"].update(port=7072),
    ),
    (
        "gateway: its readinessProbe asks for",
        lambda o: _container(o, "gateway")["readinessProbe"]["grpc"].update(service="headgate.v1.Router"),
    ),
    ("runner: its program refuses", lambda o: _container(o, "runner")["args"].append("--verbose")),
    ("worker-small: it listens on", lambda o: _container(o, "worker-small")["args"].pop()),
    ("gateway: its command", lambda o: _container(o, "gateway").update(command=["headgate", "up"])),
    (
        "gateway: nobody reads",
        lambda o: _container(o, "gateway").update(env=[{"name": "LOG_LEVEL", "value": "x"}]),
    ),
    (
        "gateway: its config: HEADGATE_GATEWAY__DRAIN",
        lambda o: _container(o, "gateway").update(env=[{"name": "HEADGATE_GATEWAY__DRAIN", "value": "9"}]),
    ),
    ("gateway: it is killed before", lambda o: _pod(o, "gateway").update(terminationGracePeriodSeconds=41)),
    ("runner: it is killed before", lambda o: _pod(o, "runner").update(terminationGracePeriodSeconds=41)),
    ("worker-large: it is killed before", lambda o: _config(o, "drain_s: 30", "drain_s: 34")),
    ("gateway: it sees", lambda o: _config(o, "headgate/pepper", "headgate/papper")),
    (
        "runner: it sees",
        lambda o: _pod(o, "runner")["volumes"][1]["secret"]["items"].append(
            {"key": "pepper", "path": "pepper"}
        ),
    ),
    (
        "namespace: Pod Security",
        lambda o: of_kind(o, "Namespace")["headgate"]["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
    ),
    (
        "Service gateway: is in another",
        lambda o: of_kind(o, "Service")["gateway"]["metadata"].update(namespace="x"),
    ),
    (
        "service gateway: http is no port",
        lambda o: of_kind(o, "Service")["gateway"]["spec"]["ports"][0].update(targetPort="http"),
    ),
    ("service gateway: is not headless", lambda o: of_kind(o, "Service")["gateway"]["spec"].pop("clusterIP")),
    (
        "service worker-small: means",
        lambda o: of_kind(o, "Service")["worker-small"]["spec"]["selector"].pop(
            "app.kubernetes.io/component"
        ),
    ),
    (
        "disruption budget gateway",
        lambda o: of_kind(o, "PodDisruptionBudget")["gateway"]["spec"].update(
            selector={"matchLabels": {"app.kubernetes.io/name": "headgate"}}
        ),
    ),
    (
        "gateway: a rollout leaves",
        lambda o: (
            workloads(o)["gateway"].deployment["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1)
        ),
    ),
    (
        "worker-small: a rollout is quicker",
        lambda o: workloads(o)["worker-small"].deployment["spec"].update(minReadySeconds=2),
    ),
    ("gateway: all of it may lie", lambda o: _pod(o, "gateway").pop("topologySpreadConstraints")),
    (
        "gateway: its log may evict it",
        lambda o: [
            _container(o, "gateway")["resources"][kind].update({"ephemeral-storage": "64Mi"})
            for kind in ("requests", "limits")
        ],
    ),
    (
        "network: worker-small cannot send to 169.254.20.10/32:53",
        lambda o: _policy(o, "dns")["egress"][0]["to"].pop(),
    ),
    ("gateway: its priority is none", lambda o: _pod(o, "gateway").update(priorityClassName="high")),
    ("gateway: each apply undoes", lambda o: workloads(o)["gateway"].deployment["spec"].update(replicas=2)),
    (
        "scaler runner: there is no metric",
        lambda o: _scaler(o, "runner").update(query="sum(headgate_jobs_queued)"),
    ),
    (
        "scaler runner: counts what other namespaces",
        lambda o: _scaler(o, "runner").update(query="sum(headgate_jobs_waiting)"),
    ),
    ("scaler runner: 40 in work", lambda o: _scaler(o, "runner").update(threshold="40")),
    (
        "scaler worker-small: reads",
        lambda o: _scaler(o, "worker-small").update(query=_scaler(o, "worker-large")["query"]),
    ),
    (
        "gateway: alert rules call its job",
        lambda o: of_kind(o, "PodMonitor")["headgate-gateway"]["spec"].pop("jobLabel"),
    ),
    ("worker-small: 0 monitors", lambda o: o.remove(of_kind(o, "PodMonitor")["headgate-worker"])),
    ("network: nothing is denied", lambda o: o.remove(of_kind(o, "NetworkPolicy")["default-deny"])),
    (
        "network: gateway cannot send to worker-large:7080",
        lambda o: _policy(o, "gateway")["egress"][0]["to"].pop(),
    ),
    (
        "network: gateway cannot get to worker-small:7080",
        lambda o: _policy(o, "workers")["podSelector"]["matchExpressions"][0]["values"].remove(
            "worker-small"
        ),
    ),
    (
        "network: reconciler cannot send to 192.0.2.10/32:6379",
        lambda o: _policy(o, "redis")["podSelector"]["matchExpressions"][0]["values"].remove("reconciler"),
    ),
    ("network: runner may send to everybody", lambda o: _policy(o, "runner")["egress"][0].pop("to")),
    (
        "network: everybody may get to gateway:7070, and",
        lambda o: _policy(o, "gateway")["ingress"][0]["from"].append({}),
    ),
    (
        "network: runner cannot send to gateway:7071",
        lambda o: _container(o, "gateway")["ports"][0].update(containerPort=7071),
    ),
]


@pytest.mark.parametrize(("fault", "plant"), MUTANTS, ids=[fault for fault, _ in MUTANTS])
def test_a_planted_fault_is_named(fault: str, plant: Mutant) -> None:
    objects = load("prod")
    plant(objects)
    assert any(found.startswith(fault) for found in faults(objects)), faults(objects)


def test_a_valkey_that_is_killed_before_it_is_full_is_named() -> None:
    objects = load("dev")
    args = _container(objects, "valkey")["args"]
    args[args.index("128mb")] = "192mb"
    assert faults(objects) == ["valkey: it is killed before it is full"]


def test_a_kubelet_cannot_ask_by_tls() -> None:
    objects = load("prod-tls")
    _container(objects, "gateway")["livenessProbe"] = {"grpc": {"port": 7070}}
    assert faults(objects) == ["gateway: its livenessProbe speaks no TLS"]


def _measured(side: str, load_: str) -> float:
    """Microseconds of CPU, the median of all rounds."""
    runs = json.loads((K8S.parents[1] / "docs/reference/bench.json").read_text())["runs"]
    return statistics.median(run["cpu_us"] for run in runs if (run["side"], run["load"]) == (side, load_))


def test_the_guide_reckons_with_what_was_measured() -> None:
    """A core's figures, and the table that follows from them: pods by CPU at 60 %, and by requests inside."""
    ((request, token),) = re.findall(r"\((0\.\d+) \+ (0\.\d+) × streamed tokens\) / 0\.6", GUIDE)
    assert float(request) == pytest.approx(_measured("gateway", "c16") / 1e6, rel=0.05)
    assert float(token) == pytest.approx(_measured("real", "8 streams") / 1e6, rel=0.1)
    (hpa,) = of_kind(load("prod"), "HorizontalPodAutoscaler").values()
    cpu, inside = hpa["spec"]["metrics"]
    share = cpu["resource"]["target"]["averageUtilization"] / 100
    most = int(inside["pods"]["target"]["averageValue"])
    assert most == config(load("prod")).gateway.max_concurrent / 2
    mebibytes = byte_count(_container(load("prod"), "gateway")["resources"]["limits"]["memory"]) >> 20
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| (\d+) \| (\d+).* \| (\d+) GiB \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        rate, by_cpu, by_inside, pods, gib = (int(cell.replace(",", "")) for cell in row)
        assert by_cpu == math.ceil(rate * float(request) / share - 1e-9)
        assert by_inside == math.ceil(rate / most)
        assert pods == max(by_cpu, by_inside, hpa["spec"]["minReplicas"])
        assert gib == round(pods * mebibytes / 1024)


def test_what_the_guide_names_is_there() -> None:
    """Overlays, Deployments, Secrets' keys and paths of its commands."""
    for name in re.findall(r"deploy/k8s/overlays/([\w-]+)", GUIDE):
        assert name in OVERLAYS
    known = {name for overlay in OVERLAYS for name in workloads(load(overlay))}
    assert set(re.findall(r"deployment/([a-z-]+)", GUIDE)) <= known
    keys = {
        value.partition("/")[2] for one in workloads(load("prod")).values() for value in one.files().values()
    }
    assert set(re.findall(r"--from-file=([\w-]+)=", GUIDE)) | {"headgate.yaml"} >= keys
