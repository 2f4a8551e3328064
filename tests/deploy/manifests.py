"""The manifests as a cluster would get them: their workloads, the config and the secrets they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from headgate.adapters import settings
from headgate.adapters.config import Config
from tests.deploy.dockerfile import Stage, stages
from tests.deploy.images import DOCKERFILE, ROOT

K8S = ROOT / "deploy/k8s"
OVERLAYS = ("dev", "prod", "prod-tls", "gpu")
STAGES = stages(DOCKERFILE.read_text())
COMPONENT = "app.kubernetes.io/component"
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

Object = dict[str, Any]


def load(overlay: str) -> list[Object]:
    """What an overlay renders to; the caller's own, to change."""
    text = (K8S / f"rendered/{overlay}.yaml").read_text()
    return list(yaml.load_all(text, yaml.CSafeLoader))


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """By name."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def config_text(objects: list[Object]) -> str:
    """The file that every program of ours reads."""
    return str(of_kind(objects, "ConfigMap")["headgate-config"]["data"]["headgate.yaml"])


def config(objects: list[Object]) -> Config:
    """The same, read. Raises ConfigError."""
    return settings.read(config_text(objects), Path("/etc/headgate/headgate.yaml"), {}).config


def byte_count(quantity: str) -> int:
    """`64Mi` → 67108864."""
    match = re.fullmatch(r"(\d+)(|Ki|Mi|Gi)", str(quantity))
    assert match is not None, quantity
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment with its one container."""

    name: str
    deployment: Object

    @property
    def labels(self) -> Mapping[str, str]:
        """Of its pods."""
        labels: Mapping[str, str] = self.deployment["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def pod(self) -> Object:
        """The pods' spec."""
        spec: Object = self.deployment["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Object:
        """The one of each pod."""
        (one,) = self.pod["containers"]
        assert isinstance(one, dict)
        return one

    @property
    def role(self) -> str:
        """Which of our images it runs; empty for somebody else's."""
        match = re.search(r"(?:^|/)headgate-([a-z-]+):", self.container["image"])
        return match[1] if match else ""

    @property
    def stage(self) -> Stage:
        """Its image, as the Dockerfile describes it."""
        return STAGES[self.role]

    @property
    def command(self) -> list[str]:
        """What runs, as the kubelet puts it together."""
        start = self.container.get("command") or (self.stage.start or ())
        if "args" in self.container:
            return [*start, *self.container["args"]]
        return [*start, *(() if "command" in self.container else self.stage.arguments or ())]

    @property
    def flags(self) -> dict[str, str]:
        """Its flags; the last of two equal ones counts."""
        words = self.command
        return {flag: value for flag, value in pairwise(words) if flag.startswith("--")}

    @property
    def ports(self) -> dict[str, int]:
        """Its container's, by name."""
        return {one["name"]: one["containerPort"] for one in self.container.get("ports", ())}

    @property
    def environ(self) -> dict[str, str]:
        """What the manifest adds to the image's."""
        return {one["name"]: one["value"] for one in self.container.get("env", ())}

    @property
    def pre_stop_s(self) -> float:
        """Before SIGTERM."""
        hook = self.container.get("lifecycle", {}).get("preStop", {})
        return float(hook.get("sleep", {}).get("seconds", 0))

    def volumes(self) -> Iterator[tuple[str, Object, bool]]:
        """Where it is mounted, which one, and whether for reading only."""
        named = {one["name"]: one for one in self.pod.get("volumes", ())}
        for mount in self.container.get("volumeMounts", ()):
            yield mount["mountPath"], named[mount["name"]], mount.get("readOnly", False)

    def files(self) -> dict[str, str]:
        """The files that it sees of ConfigMaps and Secrets: their place, and `name/key`."""
        found = {}
        for place, volume, _ in self.volumes():
            source = volume.get("secret") or volume.get("configMap")
            if source:
                name = source.get("secretName") or source["name"]
                for item in source.get("items") or [{"key": "headgate.yaml", "path": "headgate.yaml"}]:
                    found[f"{place}/{item['path']}"] = f"{name}/{item['key']}"
        return found


def workloads(objects: list[Object]) -> dict[str, Workload]:
    """Every Deployment."""
    return {name: Workload(name, one) for name, one in of_kind(objects, "Deployment").items()}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector, or a Service's plain one inside `matchLabels`, means these labels."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In", one
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True
