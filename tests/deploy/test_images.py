"""The Dockerfile keeps the house's rules for images, and each rule is one that a mutant breaks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.dockerfile import stages
from tests.deploy.images import DOCKERFILE, ROLES, ROOT, faults, listed, lists

TEXT = DOCKERFILE.read_text()
BIN = Path(sys.executable).parent
_TESTED = re.compile(r"^([a-z0-9-]+)==(\S+) (?!; python_full_version >)", re.MULTILINE)
"""Names and versions for Python 3.11, which is the images'."""


def _hadolint(path: Path) -> str:
    run = subprocess.run(
        [BIN / "hadolint", "--failure-threshold", "style", path], capture_output=True, text=True, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout


def test_hadolint_says_nothing() -> None:
    assert _hadolint(DOCKERFILE) == ""


def test_hadolint_would_notice(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(
        TEXT.replace('ENTRYPOINT ["/app/bin/python", "-m", "headgate.jobs"]', "ENTRYPOINT python")
    )
    assert "DL3025" in _hadolint(wrong)


def test_every_image_keeps_the_rules() -> None:
    assert faults(TEXT, lists()) == []


@pytest.mark.parametrize(
    ("pattern", "instead", "fault"),
    [
        (r"^USER 65532:65532$", "USER headgate", "its user is headgate"),
        (r"^USER 65532:65532$", "USER 0:0", "its user is 0:0"),
        (r"^USER 65532:65532\n", "", "its user is root"),
        (r"3.11.14-slim-bookworm$", "latest", "the base is not pinned"),
        (r" *OPENBLAS_NUM_THREADS=1[^\n]*\n", "", "its numpy starts a thread for each core"),
        (r" *ORT_DISABLE_TELEMETRY=1[^\n]*\n", "", "its ONNX Runtime would call home"),
        (r"^STOPSIGNAL.*\n", "", "it is not stopped by SIGTERM"),
        (r"^HEALTHCHECK[^\n]*\\\n[^\n]*\n(?=ENTRYPOINT[^\n]*jobs)", "", "jobs: it has no health check"),
        (r"headgate\.adapters\.probe", "http.server", "it has no health check"),
        (r"^ENTRYPOINT .*headgate.gateway.*$", "ENTRYPOINT headgate", "gateway: its entry point is not"),
        (r"^FROM role AS jobs$", "FROM role AS runners", "jobs: no such target"),
        (r"--from=install-gateway", "--from=install-worker-gpu", "gateway: it holds more than its venv"),
        (r"^RUN ./install.sh gateway.txt", "RUN ./install.sh worker-gpu.txt", "gateway: its venv is not"),
        (r"^      org.opencontainers.image.version=[^\n]*\n", "", "it has no label version"),
    ],
)  # fmt: skip
def test_a_rule_that_is_broken_is_told(pattern: str, instead: str, fault: str) -> None:
    mutant, count = re.subn(pattern, instead, TEXT, flags=re.MULTILINE)
    assert count
    assert any(fault in one for one in faults(mutant, lists()))


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("requests==2.0\n", "gateway: not pinned and hashed: requests==2.0"),
        (f"requests>=2 --hash=sha256:{'0' * 64}\n", "gateway: not pinned and hashed"),
        (f"torch==2.13.0 --hash=sha256:{'0' * 64}\n", "gateway: it holds torch"),
    ],
)
def test_a_list_that_is_broken_is_told(more: str, fault: str) -> None:
    found = faults(TEXT, lists() | {"gateway": lists()["gateway"] + more})
    assert any(one.startswith(fault) for one in found)


@pytest.mark.parametrize("role", ROLES)
def test_images_hold_what_is_tested(role: str) -> None:
    """The same releases as in the tests' own list; the GPU's packages are in no other."""
    tested = dict(_TESTED.findall((ROOT / "requirements/test.txt").read_text()))
    held = listed(lists()[role])
    both = held.keys() & tested
    assert {name: held[name] for name in both} == {name: tested[name] for name in both}
    if role != "worker-gpu":
        assert both == held.keys()


def test_torch_is_the_tested_one() -> None:
    installed = re.findall(r"install --quiet torch==(\S+)", (ROOT / "Makefile").read_text())
    assert installed == [listed(lists()["worker-gpu"])["torch"]]


def test_both_workers_are_started_alike() -> None:
    """What a test shows of one is true of the other, but for the list."""
    found = stages(TEXT)
    cpu, gpu = found["worker-cpu"], found["worker-gpu"]
    assert (cpu.start, cpu.arguments, cpu.probe, cpu.user) == (gpu.start, gpu.arguments, gpu.probe, gpu.user)
    more = {name: value for name, value in gpu.environ.items() if cpu.environ.get(name) != value}
    assert more.keys() == {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}


def test_what_is_copied_is_sent() -> None:
    """.dockerignore lets through what the Dockerfile copies from the checkout, and no tests or docs."""
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for stage in stages(TEXT).values()
        for copy in stage.copies
        if not copy[0].startswith("--from")
        for word in copy[:-1]
    }
    assert {re.sub(r"requirements/.*", "requirements/*.txt", one) for one in copied} == sent
    assert all((ROOT / one).exists() for one in copied)


def test_the_bill_of_materials_names_every_package(tmp_path: Path) -> None:
    told = tmp_path / "gateway.cdx.json"
    subprocess.run(
        ["make", "--silent", "-o", ".venv/test.stamp", f"BIN={BIN}", f"SBOM={tmp_path}", told],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    found = json.loads(told.read_text())
    assert found["bomFormat"] == "CycloneDX"
    assert {one["name"]: one["version"] for one in found["components"]} == listed(lists()["gateway"])
    assert all(one["externalReferences"][0]["hashes"] for one in found["components"])


def test_make_images_without_docker_is_one_sentence(tmp_path: Path) -> None:
    for tool in ("sh", "make"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"needs {tool}"))
    run = subprocess.run(
        [tmp_path / "make", "--silent", "images"],
        cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode
    assert run.stderr.splitlines()[0] == "make images: needs docker on the PATH, version 23 or newer"


def test_make_images_builds_every_target(tmp_path: Path) -> None:
    """With a docker that only says what it is asked to do."""
    asked = tmp_path / "asked"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$*" >>{asked}\n')
    docker.chmod(0o755)
    bills = [word for role in ROLES for word in ("-o", f"{tmp_path}/{role}.cdx.json")]
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(
        ["make", "--silent", *bills, f"SBOM={tmp_path}", "images"],
        cwd=ROOT, env=os.environ | {"PATH": path}, check=True, capture_output=True,
    )  # fmt: skip
    lines = asked.read_text().splitlines()
    built = [line for line in lines if line.startswith("build ")]
    assert [re.findall(r"--target (\S+)", line)[0] for line in built] == list(ROLES)
    assert all("--build-arg VERSION=0.1.0" in line and "--build-arg REVISION=" in line for line in built)
