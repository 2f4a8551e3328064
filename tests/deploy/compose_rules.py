"""The rules that every service keeps, as sentences about what breaks them: none for a good compose file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from headgate.adapters.config import Config
from tests.deploy.compose import Compose, Service
from tests.deploy.dockerfile import Stage

ROLES = {"gateway": "gateway", "worker-cpu": "worker", "jobs": "jobs"}
_TAG = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(-\w+)?(@sha256:[0-9a-f]{64})?")
ENGINES = ("vllm", "ollama")
"""They load models as they like, as root, and nobody here has seen which places they write to."""
SILENT = ("collector",)
"""Nothing in its image could ask how it is."""
WATCHING = ("prometheus", "collector")
OPTIONAL = {"flower", *ENGINES}
SECRETS = {
    "gateway": ("pepper",),
    "worker-cpu": ("upstream_key",),
    "runner": ("runner_key",),
    "reconciler": (),
}
"""Who may see which; by service where an image has two."""


def faults(compose: Compose, stages: dict[str, Stage], config: Config) -> list[str]:
    """What is wrong, with the images and the config that the file takes for granted."""
    found = [
        f"{one.name}: {fault}" for one in compose.services.values() for fault in _of(one, stages, config)
    ]
    return found + list(_of_builds(compose)) + list(_of_state(compose)) + list(_of_networks(compose))


def _of_builds(compose: Compose) -> Iterator[str]:
    """Two that build one image at once race for its name: where containerd keeps images, one may fail."""
    for target in sorted({one.target for one in compose.services.values()} - {""}):
        builders = [one.name for one in compose.services.values() if one.built == target]
        if len(builders) != 1:
            yield f"headgate-{target}: {len(builders)} services build it"


def _of(one: Service, stages: dict[str, Stage], config: Config) -> Iterator[str]:
    if not _TAG.fullmatch(one.image):
        yield f"its image {one.image} is not pinned"
    if one.drops != ("ALL",) or one.options != ("no-new-privileges:true",):
        yield "it may do more than it needs"
    if not one.limits.keys() >= {"cpus", "memory", "pids"}:
        yield "it has no limits"
    if not one.read_only and one.name not in ENGINES:
        yield "its root can be written to"
    if not one.probe and one.name not in SILENT:
        yield "it has no health check"
    if any(port.host != "127.0.0.1" for port in one.ports):
        yield "it is published to everybody"
    if (one.name in OPTIONAL) != bool(one.profiles):
        yield "it is started when nobody asked for it" if one.name in OPTIONAL else "it is not started"
    if any(re.search("KEY|PASSWORD|SECRET", name) and "FILE" not in name for name in one.environment):
        yield "a secret stands in its environment"
    if one.target:
        yield from _of_ours(one, stages[one.target], config)


def _of_ours(one: Service, stage: Stage, config: Config) -> Iterator[str]:
    if one.built not in ("", one.target):
        yield "its image is another's"
    if one.probe != stage.probe:
        yield "its health check is not its image's"
    if one.secrets != SECRETS.get(one.target, SECRETS.get(one.name)):
        yield "it has other secrets than it needs"
    if not all(mount.read_only for mount in one.mounts):
        yield "it may change what it mounts"
    gateway = config.gateway
    drain_s = gateway.drain_s + (12 if one.name == "runner" else gateway.lame_duck_s + 2)
    if one.stop_s < drain_s and one.name != "reconciler":
        yield f"it is killed after {one.stop_s:g} s, and drains for {drain_s:g}"


def _of_state(compose: Compose) -> Iterator[str]:
    """Each Valkey's policy is its role's."""
    records, broker = compose.services["valkey"], compose.services["broker"]
    if _flag(records, "--maxmemory-policy") != "volatile-ttl":
        yield "valkey: it may forget what must stay, or answers that may go"
    if _flag(records, "--appendonly") != "yes" or "/data" not in {one.target for one in records.mounts}:
        yield "valkey: it loses jobs when it ends"
    if _flag(broker, "--maxmemory-policy") != "noeviction":
        yield "broker: it may forget tasks"
    for one in (records, broker):
        if one.probe != ("valkey-cli", "-e", "ping"):
            yield f"{one.name}: its health check takes an error for an answer"
        if 2 * int(_flag(one, "--maxmemory").removesuffix("mb")) * 2**20 > one.bytes():
            yield f"{one.name}: it is killed before it is full"


def _flag(one: Service, name: str) -> str:
    command = one.command or ()
    return command[command.index(name) + 1] if name in command else ""


def _of_networks(compose: Compose) -> Iterator[str]:
    """Whom nobody but some may reach."""
    on = {
        network: {one.name for one in compose.services.values() if network in one.networks}
        for network in compose.networks
    }
    if not compose.networks["state"] or on["state"] != {
        "valkey", "broker", "gateway-1", "gateway-2", "runner", "reconciler", "flower", *WATCHING
    }:  # fmt: skip
        yield "state: others than gateways and job runners reach it"
    if on["models"] != {"gateway-1", "gateway-2", "worker-small", "worker-large", *ENGINES, *WATCHING}:
        yield "models: others than gateways reach workers"
