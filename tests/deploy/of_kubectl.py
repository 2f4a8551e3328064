"""kubectl and kind, as far as the manifests can say whether a command is good: objects, labels, files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.deploy.commands import FaultError, Words, World, need
from tests.deploy.manifests import COMPONENT, Object, load, of_kind, workloads


@cache
def _prod() -> list[Object]:
    return load("prod")


def kind(words: Words, world: World) -> None:
    """create cluster, load docker-image."""
    words.sub()
    what, images = words.word("what"), words.left
    if words.command == "kind create":
        return need(what == "cluster" and not images, "kind creates a cluster")
    need(what == "docker-image", f"kind loads no {what}")
    need({*images} <= world.built(), f"not built: {', '.join({*images} - world.built())}")
    ours = {one.container["image"] for one in workloads(load("dev")).values() if one.role}
    return need({*images} == ours, f"the overlay dev runs {', '.join(sorted(ours))}")


def kubectl(words: Words, world: World) -> None:
    """apply, rollout, exec, get, label, create."""
    space = dict(words.flags()).get("-n", "")
    need(space in {"", *_namespaces()}, f"there is no namespace {space}")
    words.sub()
    more = words.flags()
    if words.command == "kubectl exec":
        return _exec(words, world)
    left = words.rest(more)
    match words.command:
        case "kubectl apply":
            folder = dict(more)["-k"]
            need((Path(folder) / "kustomization.yaml").is_file(), f"there is no overlay {folder}")
        case "kubectl rollout":
            need(left[0] in ("status", "undo", "restart"), f"kubectl rollout has no {left[0]}")
            need(left[1:], "of what?")
            for one in left[1:]:
                _deployment(one)
        case "kubectl get":
            need(left == ["pods"] and dict(more)["-o"] == "name", "only pods' names are got")
            print("\n".join(f"pod/{one}" for one in _pods(dict(more)["-l"], world)))
        case "kubectl label":
            _label(left, world)
        case "kubectl create":
            _create(left, [value for name, value in more if name == "--from-file"], space, world)
    return None


def _namespaces() -> set[str]:
    """Ours, and that of who watches."""
    return {*of_kind(_prod(), "Namespace"), *_selected("kubernetes.io/metadata.name")}


def _selected(label: str) -> set[str]:
    """The values of a label by which our network policies know a namespace."""
    return {one["matchLabels"][label] for one in _selectors(_prod()) if label in one.get("matchLabels", {})}


def _selectors(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, one in value.items():
            if key == "namespaceSelector":
                yield one
            yield from _selectors(one)
    elif isinstance(value, list):
        for one in value:
            yield from _selectors(one)


def _deployment(word: str) -> str:
    what, _, name = word.partition("/")
    need(what == "deployment" and name in workloads(_prod()), f"there is no {word}")
    return name


def _pods(selector: str, world: World) -> list[str]:
    """Those that run; where none does, one of each that a label means."""
    key, _, value = selector.partition("=")
    need(key == COMPONENT and value in workloads(_prod()), f"no pod has the label {selector}")
    return [name for name, one in world.running.items() if one["component"] == value] or [f"{value}-0"]


def _exec(words: Words, world: World) -> None:
    where = words.word("a pod")
    need(words.word("--") == "--", "what shall run stands behind --")
    if where.startswith("deployment/"):
        return world.run("", _deployment(where), words.left, {})
    name = where.removeprefix("pod/")
    need(name in {"POD", "gateway-0", *world.running}, f"there is no {where}")
    return world.run(name, "", words.left, {})


def _label(left: list[str], world: World) -> None:
    need(len(left) == 3 and "=" in left[2], "kubectl label KIND NAME KEY=VALUE")
    what, name, label = left
    key, _, value = label.partition("=")
    if what == "configmap":
        return need(name in _made(world), f"nobody made {name}")
    need(what == "namespace", f"what is a {what}?")
    return need(value in _selected(key), f"no network policy asks for {label}")


def _create(left: list[str], files: list[str], space: str, world: World) -> None:
    missing = [one for one in (file.rpartition("=")[2] for file in files) if not Path(one).exists()]
    need(not missing, f"there is no {', '.join(missing)}")
    match left:
        case ["namespace", name]:
            need(name in of_kind(_prod(), "Namespace"), f"no manifest is of {name}")
        case ["secret", "generic", name]:
            wanted = {one for pod in workloads(_prod()).values() for one in pod.files().values()}
            wanted = {one.partition("/")[2] for one in wanted if one.startswith(f"{name}/")}
            given = {file.partition("=")[0] for file in files}
            need(given == wanted, f"{name} has {', '.join(sorted(wanted))}")
            need(space == "headgate", f"pods see no Secret of {space}")
        case ["configmap", name]:
            with (world.folder / "made").open("a") as kept:
                kept.write(f"{name}\n")
        case _:
            raise FaultError(f"kubectl creates no {' '.join(left)}")


def _made(world: World) -> list[str]:
    kept = world.folder / "made"
    return kept.read_text().split() if kept.exists() else []
