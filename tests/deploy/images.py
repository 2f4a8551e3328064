"""The rules that every image keeps, as sentences about what breaks them: none for a good Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.deploy.dockerfile import Stage, stages

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
ROLES = ("gateway", "worker-cpu", "worker-gpu", "jobs")
PROGRAMS = {
    "gateway": "headgate.gateway",
    "worker-cpu": "headgate.worker",
    "worker-gpu": "headgate.worker",
    "jobs": "headgate.jobs",
}
WITHOUT = {
    "gateway": {"torch", "transformers", "openai", "onnxruntime-gpu", "hatchling", "pytest"},
    "jobs": {"torch", "transformers", "openai", "onnxruntime", "onnxruntime-gpu", "hatchling"},
    "worker-cpu": {"torch", "transformers", "onnxruntime-gpu", "celery"},
    "worker-gpu": {"onnxruntime", "celery"},
}
"""What an image must not hold."""
_EXPORTER = "opentelemetry-exporter-otlp-proto-grpc"
WITH = {
    "gateway": {"onnxruntime", "celery", "redis", _EXPORTER},
    "jobs": {"celery", "redis", "grpcio", _EXPORTER},
    "worker-cpu": {"onnxruntime", "openai", _EXPORTER},
    "worker-gpu": {"onnxruntime-gpu", "torch", "transformers", "openai", _EXPORTER},
}
_LINE = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?: ; [^\\]+)?(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)
_BASE = re.compile(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?$", re.MULTILINE)
_LABELS = ("title", "description", "licenses", "version", "revision")


def listed(text: str) -> dict[str, str]:
    """Names and versions of a hashed list. Raises ValueError at a line that is not pinned and hashed."""
    found = {}
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"not pinned and hashed: {line.strip()[:60]}")
        found[match["name"]] = match["version"]
    return found


def lists() -> dict[str, str]:
    """Each role's list as it stands in requirements/."""
    return {role: (ROOT / f"requirements/{role}.txt").read_text() for role in ROLES}


def faults(text: str, lists: Mapping[str, str]) -> list[str]:
    """What is wrong with a Dockerfile and its lists."""
    found = stages(text)
    missing = [f"{role}: no such target" for role in ROLES if role not in found]
    if missing:
        return missing
    untagged = [] if _BASE.search(text) else ["the base is not pinned by a tag of its own"]
    return untagged + [f"{role}: {fault}" for role in ROLES for fault in _of(role, found, lists[role])]


def _of(role: str, found: Mapping[str, Stage], list_: str) -> Iterator[str]:
    stage = found[role]
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage.user):
        yield f"its user is {stage.user}, not a number above 0"
    if stage.signal != "SIGTERM":
        yield "it is not stopped by SIGTERM"
    if (stage.start or ())[:3] != ("/app/bin/python", "-m", PROGRAMS[role]) or stage.arguments is None:
        yield "its entry point is not the program itself"
    if (stage.probe or ())[:3] != ("/app/bin/python", "-m", "headgate.adapters.probe"):
        yield "it has no health check of ours"
    if stage.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        yield "its ONNX Runtime would call home"
    if stage.environ.get("OPENBLAS_NUM_THREADS") != "1":
        yield "its numpy starts a thread for each core of its host"
    for name in _LABELS:
        if not stage.labels.get(f"org.opencontainers.image.{name}"):
            yield f"it has no label {name}"
    if stage.runs or stage.copies != (("--from=install-" + role, "/app", "/app"),):
        yield "it holds more than its venv"
    if found[f"install-{role}"].runs != (f"./install.sh {role}.txt ./*.whl /app",):
        yield "its venv is not made from its list"
    yield from _of_list(role, list_)


def _of_list(role: str, text: str) -> Iterator[str]:
    try:
        names = listed(text).keys()
    except ValueError as error:
        yield str(error)
        return
    if wrong := WITHOUT[role] & names:
        yield f"it holds {', '.join(sorted(wrong))}"
    if lacking := WITH[role] - names:
        yield f"it lacks {', '.join(sorted(lacking))}"
