"""Writes what is derived: the rules for the Prometheus operator, and each overlay as kustomize renders it.

    python deploy/k8s/render.py          needs kubectl 1.27 or newer; tests say when it is due

Who has no kustomize applies the files in rendered/. A digest of all that they were made from stands in each.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import yaml

HERE = Path(__file__).parent
ALERTS = HERE.parent / "observability/alerts.yaml"
RULES = HERE / "components/monitoring/rules.yaml"
OVERLAYS = ("dev", "prod", "prod-tls", "gpu")
_SOURCES = ("base", "components", "overlays")


def rules() -> str:
    """The PrometheusRule that holds our alert rules."""
    told = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "headgate", "labels": {"app.kubernetes.io/name": "headgate"}},
        "spec": yaml.safe_load(ALERTS.read_text()),
    }
    head = "# Written by render.py from deploy/observability/alerts.yaml.\n"
    return head + yaml.safe_dump(told, sort_keys=False, width=10_000)


def digest(folder: Path = HERE) -> str:
    """SHA-256 of every file that a rendering is made from, names included."""
    total = hashlib.sha256()
    for path in sorted(one for name in _SOURCES for one in (folder / name).rglob("*.yaml")):
        total.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def rendered(overlay: str) -> str:
    """As `kubectl kustomize` says it. Raises CalledProcessError."""
    command = ["kubectl", "kustomize", str(HERE / "overlays" / overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def head(overlay: str) -> str:
    """The first line of a rendered file."""
    return f"# Written by render.py from overlays/{overlay}; sources {digest()}\n"


def main() -> None:
    """Writes all of it."""
    RULES.write_text(rules())
    for overlay in OVERLAYS:
        (HERE / "rendered" / f"{overlay}.yaml").write_text(head(overlay) + rendered(overlay))


if __name__ == "__main__":
    main()
