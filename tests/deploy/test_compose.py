"""docker-compose.yml keeps the specification's schema and the house's rules; a mutant breaks each rule."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headgate.adapters import settings
from headgate.adapters.config import Config
from tests.deploy.compose import FILE, ROOT, read
from tests.deploy.compose_rules import OPTIONAL, faults
from tests.deploy.dockerfile import stages
from tests.deploy.images import DOCKERFILE

TEXT = FILE.read_text()
STAGES = stages(DOCKERFILE.read_text())
CONFIG = ROOT / "deploy/compose/headgate.yaml"
PAGE = (ROOT / "docs/howto/run-in-containers.md").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()


def _config(environ: dict[str, str] | None = None) -> Config:
    return settings.load(CONFIG, environ or {}).config


def _schema(path: Path) -> subprocess.CompletedProcess[str]:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(check, capture_output=True, text=True, check=False)


def test_it_keeps_the_schema() -> None:
    told = _schema(FILE)
    assert told.returncode == 0, told.stdout


def test_the_schema_would_notice(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(TEXT.replace("stop_grace_period: 25s", "stop_grace: 25s", 1))
    told = _schema(wrong)
    assert told.returncode
    assert "stop_grace" in told.stdout


def test_every_service_keeps_the_rules() -> None:
    assert faults(read(TEXT), STAGES, _config()) == []


@pytest.mark.parametrize(
    ("pattern", "instead", "fault"),
    [
        (r"prom/prometheus:v3.5.0", "prom/prometheus:latest", "prometheus: its image prom"),
        (r"valkey/valkey:8.1.4-alpine", "valkey/valkey", "broker: its image valkey/valkey is not pinned"),
        (r"  cap_drop: \[ALL\]\n", "", "gateway-1: it may do more than it needs"),
        (r'"no-new-privileges:true"', '"no-new-privileges:false"', "runner: it may do more"),
        (r"^  <<: \*kept\n  read_only: true\n", "  <<: *kept\n", "worker-small: its root can be written to"),
        (r"cpus: \"1\", memory: 512M, pids: 100", 'cpus: "1", memory: 512M', "gateway-1: it has no limits"),
        (r"test: \[CMD, valkey-cli, -e, ping\]", "test: [NONE]", "valkey: it has no health check"),
        (r"valkey-cli, -e, ping", "valkey-cli, ping", "broker: its health check takes an error"),
        (r"127.0.0.1:7072", "127.0.0.1:7070", "gateway-2: its health check is not its image's"),
        (r"127.0.0.1:\$\{GRAFANA_PORT", "0.0.0.0:${GRAFANA_PORT", "grafana: it is published to everybody"),
        (r"BIND:-127.0.0.1", "BIND:-0.0.0.0", "gateway-1: it is published to everybody"),
        (r"    profiles: \[flower\]\n", "", "flower: it is started when nobody asked for it"),
        (r"secrets: \[pepper\]", "secrets: [pepper, runner_key]", "gateway-1: it has other secrets"),
        (r"target: /etc/headgate, read_only: true", "target: /etc/headgate", "runner: it may change what"),
        (r"period: 25s # lame", "period: 10s # lame", "gateway-1: it is killed after 10 s"),
        (r"stop_grace_period: 35s", "stop_grace_period: 25s", "runner: it is killed after 25 s, and drains"),
        (r"volatile-ttl", "allkeys-lru", "valkey: it may forget what must stay"),
        (r"--appendonly, \"yes\"", '--appendonly, "no"', "valkey: it loses jobs when it ends"),
        (r"\n *volumes: \[\"valkey:/data\"\]", "", "valkey: it loses jobs when it ends"),
        (r"noeviction", "volatile-lru", "broker: it may forget tasks"),
        (r"--maxmemory, 512mb", "--maxmemory, 1024mb", "valkey: it is killed before it is full"),
        (r"state: \{internal: true\}", "state: {}", "state: others than gateways"),
        (r"networks: \[models\]$", "networks: [models, state]", "state: others than gateways"),
        (r"networks: \[edge, state\]", "networks: [edge, models, state]", "models: others than"),
        (r"target: worker-cpu", "target: gateway", "worker-small: its image is another's"),
        (r"^(    <<: .worker)$", r"\1\n    build: {target: worker-cpu}", "headgate-worker-cpu: 2 services"),
        (r"^    build: .*target: jobs.*\n", "", "headgate-jobs: 0 services build it"),
        (r"ADMIN_PASSWORD__FILE: \S+", "ADMIN_PASSWORD: x", "grafana: a secret stands"),
    ],
)  # fmt: skip
def test_a_rule_that_is_broken_is_told(pattern: str, instead: str, fault: str) -> None:
    mutant, count = re.subn(pattern, instead, TEXT, flags=re.MULTILINE)
    assert count
    assert any(one.startswith(fault) for one in faults(read(mutant), STAGES, _config()))


def test_the_config_is_what_the_services_are() -> None:
    """Addresses in it are names and ports of services, and its secrets are mounted."""
    config, compose = _config(), read(TEXT)
    assert {name: model.worker for name, model in config.pool.items()} == {
        "small": "worker-small:7080", "large": "worker-large:7080",
    }  # fmt: skip
    assert config.redis.url == "redis://valkey:6379"
    assert config.jobs.broker == "redis://broker:6379"
    referred = set(re.findall(r"file:/run/secrets/(\w+)", CONFIG.read_text()))
    assert referred | {"grafana_password"} == compose.secrets.keys()
    assert all(one.startswith("./deploy/compose/local/secrets/") for one in compose.secrets.values())


def test_what_is_mounted_from_the_checkout_is_there() -> None:
    mounted = {mount.source for one in read(TEXT).services.values() for mount in one.mounts}
    ours = {one for one in mounted if one.startswith("./") and "/local/" not in one}
    assert ours
    assert [one for one in ours if not (ROOT / one).exists()] == []
    assert {one for one in mounted if not one.startswith("./")} == {*read(TEXT).volumes}


def test_what_init_makes_is_ignored() -> None:
    for name in (".env", "deploy/compose/local/secrets/pepper", "deploy/compose/local.abc/secrets/pepper"):
        ignored = ["git", "-c", "safe.directory=*", "check-ignore", "-q", name]
        assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0, name


def test_two_variables_put_an_upstream_in_a_model_s_place() -> None:
    given = {"SMALL_BASE_URL": "http://vllm:8000/v1", "SMALL_MODEL": "Qwen/Qwen3-8B"}
    for environ, backend, source in (({}, "builtin", "small"), (given, "openai", "Qwen/Qwen3-8B")):
        services = read(TEXT, environ).services
        for name in ("gateway-1", "worker-small"):
            told = _config(services[name].environment)
            assert (told.pool["small"].backend, told.pool["small"].source) == (backend, source)
            assert told.pool["small"].base_url == environ.get("SMALL_BASE_URL")
            assert (told.pool["large"].backend, told.pool["large"].source) == ("builtin", "large")
    command = services["vllm"].command or ()
    assert command[1] == "Qwen/Qwen3-8B"


def test_the_example_names_every_variable() -> None:
    assert set(re.findall(r"^#(\w+)=", EXAMPLE, re.MULTILINE)) == {
        *re.findall(r"\$\{(\w+)", TEXT), "COMPOSE_PROFILES"
    }  # fmt: skip


def test_the_page_says_what_there_is() -> None:
    compose = read(TEXT)
    rolled = re.findall(r"^for one in (.*); do$", PAGE, re.MULTILINE)
    assert [sorted(one.split()) for one in rolled] == [
        sorted(one.name for one in compose.services.values() if one.target)
    ]
    ports = {str(port.published) for one in compose.services.values() for port in one.ports}
    assert all(one in PAGE for one in ports)
    tabled = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| `.*?\|", PAGE, re.MULTILINE))))
    assert compose.services.keys() - OPTIONAL <= tabled
    asked = re.findall(r"docker compose exec(?: --env \w+)? (\S+)", PAGE)
    assert {*asked} <= compose.services.keys()


def test_prometheus_asks_every_process_of_ours() -> None:
    told = yaml.safe_load((ROOT / "deploy/observability/prometheus.yml").read_text())
    fixed = [
        host for one in told["scrape_configs"] for found in one.get("static_configs", ())
        for host in found["targets"]
    ]  # fmt: skip
    found = [
        f"{name}:{more['port']}" for one in told["scrape_configs"] for more in one.get("dns_sd_configs", ())
        for name in more["names"]
    ]  # fmt: skip
    ports = {"gateway": 9464, "worker-cpu": 9490, "jobs": 9474}
    ours = [f"{one.name}:{ports[one.target]}" for one in read(TEXT).services.values() if one.target]
    assert sorted(fixed + found) == sorted([*ours, "collector:8888"])
