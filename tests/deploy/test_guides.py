"""Every block of the two pages about containers and Kubernetes is run, as far as that goes without an engine.

Here each shell block runs under bash with stand_in.py for docker, kubectl and kind. What they run inside a
container runs really in test_compose_stack.py and test_cluster.py, with the pages' Python.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from headgate.adapters.telemetry import NAMES
from tests.deploy.commands import FLAGS
from tests.deploy.compose import FILE, read
from tests.deploy.guide import Reader, blocks, faults, sentence_faults
from tests.deploy.images import ROOT
from tests.deploy.manifests import load, of_kind

HOWTO = ROOT / "docs/howto"
CONTAINERS, KUBERNETES = "run-in-containers.md", "run-on-kubernetes.md"
PAGES = {name: (HOWTO / name).read_text() for name in (CONTAINERS, KUBERNETES)}
TRIED = {
    CONTAINERS: {"": 9, "python": 1, "ini": 1},
    KUBERNETES: {"": 8, "python": 1, "json": 1, "yaml": 2},
}
"""Blocks by language. Shell is run by itself; who adds another names here that a test tries it."""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_good(page: str, tmp_path: Path) -> None:
    assert faults(PAGES[page], tmp_path) == []


def test_every_command_in_the_operators_sentences_is_good(tmp_path: Path) -> None:
    assert sentence_faults((HOWTO / "operate.md").read_text(), Reader(tmp_path)) == []


@pytest.mark.parametrize("page", PAGES)
def test_somebody_tries_every_block(page: str) -> None:
    assert Counter(one.language for one in blocks(PAGES[page])) == TRIED[page]


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """Readers who have built and made what later blocks need."""
    found = {}
    for page in PAGES:
        found[page] = Reader(tmp_path_factory.mktemp("reader"))
        assert found[page].fault("docker compose build && deploy/compose/init.sh") == ""
        assert found[page].fault("touch pepper redis-url runner-key") == ""
    return found


@pytest.mark.parametrize(
    ("page", "old", "new", "fault"),
    [
        (CONTAINERS, "--wait --no-deps", "--wait --no-dependencies", "has no flag --no-dependencies"),
        (CONTAINERS, "worker-large gateway-1", "worker-big gateway-1", "there is no service worker-big"),
        (CONTAINERS, "exec gateway-2", "exec gateway-3", "there is no service gateway-3"),
        (CONTAINERS, "exec --env HEADGATE_KEY", "exec --env HEADGATE_TOKEN", "HEADGATE_TOKEN is not set"),
        (CONTAINERS, "secrets/team_key)", "secrets/key)", "HEADGATE_KEY is not set"),
        (CONTAINERS, 'stressed" --wait', 'stressed" --await', "--await"),
        (CONTAINERS, "gateway-1 headgate reload", "gateway-1 headgate relaod", "relaod"),
        (CONTAINERS, "make images\n", "make image\n", "No rule to make target"),
        (CONTAINERS, "gateway worker-cpu jobs", "gateway worker jobs", "No rule to make target"),
        (CONTAINERS, "docker/Dockerfile --target", "Dockerfile --target", "there is no deploy/Dockerfile"),
        (CONTAINERS, "--target gateway", "--target router", "there is no target router"),
        (CONTAINERS, "7070:7070 headgate", "7070:7071 headgate", "nobody listens on 7071"),
        (CONTAINERS, "--stop-timeout 10", "--stop-timeout 5", "it needs 8 s to end"),
        (CONTAINERS, "/headgate.yaml:ro", "/config.yaml:ro", "nobody reads /etc/headgate/config.yaml"),
        (CONTAINERS, "--model large", "--modell large", "headgate.worker does not take"),
        (CONTAINERS, "jobs:0.1.0 reconciler", "jobs:0.1.0 reconcile", "headgate.jobs does not take"),
        (CONTAINERS, "jobs:0.1.0 reconciler", "jobs:0.2.0 reconciler", "headgate-jobs:0.2.0 was not built"),
        (CONTAINERS, "7072 --service", "7072 --name", "headgate.adapters.probe does not take"),
        (CONTAINERS, "  sleep 5", "  snooze 5", "snooze: command not found"),
        (KUBERNETES, " headgate-jobs:0.1.0\n", "\n", "the overlay dev runs"),
        (KUBERNETES, "apply -k deploy/k8s/overlays/dev", "apply -k deploy/k8s/dev", "there is no overlay"),
        (KUBERNETES, "apply -k deploy/k8s/overlays/dev", "apply -f deploy/k8s/overlays/dev", "no flag -f"),
        (KUBERNETES, "exec deployment/gateway", "exec deployment/router", "there is no deployment/router"),
        (KUBERNETES, "-n headgate rollout undo", "-n router rollout undo", "there is no namespace router"),
        (KUBERNETES, "rollout undo", "rollout revert", "kubectl rollout has no revert"),
        (KUBERNETES, "--pepper env:HEADGATE", "--pepper env:HEAD", "HEAD_PEPPER is not set"),
        (KUBERNETES, "keys new --id runners", "keys new --name runners", "No such option"),
        (KUBERNETES, "=redis-url --from", "=redis --from", "there is no redis"),
        (KUBERNETES, "--from-file=runner-key=", "--from-file=key=", "headgate-secrets has pepper"),
        (KUBERNETES, "dev/caller=true", "dev/callers=true", "no network policy asks for"),
        (KUBERNETES, "component=gateway", "component=router", "no pod has the label"),
        (KUBERNETES, "-- headgate reload", "headgate reload", "stands behind --"),
        (KUBERNETES, "deploy/observability/", "deploy/", "there is no deploy/dashboards"),
        (KUBERNETES, "label configmap headgate-d", "label configmap d", "nobody made dashboards"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_found(readers: dict[str, Reader], page: str, old: str, new: str, fault: str) -> None:
    (body,) = [
        one.body.replace(old, new) for one in blocks(PAGES[page]) if not one.language and old in one.body
    ][:1]  # fmt: skip
    assert fault in readers[page].fault(body)


def test_an_order_that_is_wrong_is_found(tmp_path: Path) -> None:
    page = PAGES[CONTAINERS].replace(
        "docker compose build\ndeploy/compose/init.sh\n", "docker compose build\n"
    )
    (fault,) = faults(page, tmp_path)
    assert fault.endswith("there is no ./deploy/compose/local/config\n")


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ("docker compose up --scale runners=3", "there is no service runners"),
        ("docker compose --profile flowers up", "there is no such profile"),
        ("make image", "make has no target image"),
        ("python deploy/render.py", "there is no deploy/render.py"),
        ("python -m headgate.router.serve", "there is no module"),
        ("headgate reload --every", "No such option"),
    ],
)
def test_a_wrong_command_in_a_sentence_is_found(tmp_path: Path, wrong: str, fault: str) -> None:
    (found,) = faults(f"Say `{wrong}`.\n", tmp_path)
    assert fault in found


def test_env_variables_are_those_of_the_compose_file() -> None:
    (block,) = [one.body for one in blocks(PAGES[CONTAINERS]) if one.language == "ini"]
    told = dict(line.split("=", 1) for line in block.splitlines())
    compose = read(FILE.read_text(), told)
    assert told.pop("COMPOSE_PROFILES") in compose.services["vllm"].profiles
    assert told.keys() <= {*re.findall(r"\$\{(\w+)", FILE.read_text())}
    address = re.fullmatch(r"http://([\w-]+):(\d+)/v1", told["SMALL_BASE_URL"])
    assert address
    assert address[2] in (compose.services[address[1]].command or ())


def test_yaml_is_what_the_manifests_speak_of() -> None:
    generated, adapter = [
        yaml.safe_load(one.body) for one in blocks(PAGES[KUBERNETES]) if one.language == "yaml"
    ]
    gpu = yaml.safe_load((ROOT / "deploy/k8s/overlays/gpu/kustomization.yaml").read_text())
    (ours,), (theirs,) = gpu["configMapGenerator"], generated["configMapGenerator"]
    assert theirs == ours | {"files": [*ours["files"], "team.bundle"]}
    (rule,) = adapter["rules"]
    (hpa,) = of_kind(load("prod"), "HorizontalPodAutoscaler").values()
    metric = hpa["spec"]["metrics"][1]["pods"]["metric"]["name"]
    assert metric in NAMES
    assert rule["name"]["matches"] == f"^{metric}$"
    assert rule["seriesQuery"].startswith(f"{metric}{{")


@pytest.mark.parametrize("name", [*PAGES, "operate.md"])
def test_alerts_panels_and_metrics_that_are_named_are_there(name: str) -> None:
    page, here = (HOWTO / name).read_text(), ROOT / "deploy/observability"
    rules = [
        rule
        for group in yaml.safe_load((here / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    boards = [json.loads(path.read_text()) for path in (here / "dashboards").glob("*.json")]
    (folder,) = [
        one["folder"] for one in yaml.safe_load((here / "grafana/dashboards.yaml").read_text())["providers"]
    ]
    known = {folder, *(rule.get("alert") for rule in rules)}
    for board in boards:
        known |= {board["title"].removeprefix("Headgate: "), *(panel["title"] for panel in board["panels"])}
    assert {*re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)", page)} <= known
    assert {*re.findall(r"\bheadgate_\w*[a-z]\b(?!_)", page)} <= NAMES.keys()


@pytest.mark.parametrize("command", sorted(FLAGS))
def test_the_flags_are_the_program_s(command: str) -> None:
    """Where it is installed; elsewhere the table is what it said."""
    program, *words = command.split()
    if shutil.which(program) and words[:1] != ["compose"]:
        more = {"kubectl rollout": ["status"], "kubectl create": ["secret", "generic"]}.get(command, [])
        ask = ["kubectl", "options"] if command == "kubectl" else [program, *words, *more, "--help"]
        helped = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
        for flag in " ".join(FLAGS[command]).split():
            assert re.search(rf"(?<![\w-]){flag}\b", helped), flag
