"""A cluster without Kubernetes: pods as an overlay describes them, each with a network and an address.

What stands in for the kubelet and for DNS is node.py; for the runtime, the kernel's namespaces (enclose.py);
for the controller of Deployments, `roll`. Network policies, seccomp and limits of CPU and memory are not
enforced. It takes root.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.deploy.manifests import Object, Workload, byte_count, of_kind, workloads
from tests.deploy.pod import wait_for

DOMAIN = "headgate.svc.cluster.local"
NODE = "10.77.0.1"
RESOLV = f"nameserver {NODE}\nsearch {DOMAIN} svc.cluster.local\noptions ndots:5\n"
GROUP = 65532
_ENCLOSE = Path(__file__).with_name("enclose.py")
_MORTAL = ["setpriv", "--pdeathsig", "KILL"]


class Network:
    """A namespace of the kernel, for as long as it is not closed."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            [*_MORTAL, "unshare", "--net", "sh", "-c", "echo up; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n", "a network namespace takes root"
        self.pid = self._holder.pid
        self.enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net"]
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> None:
        """`ip`, inside."""
        subprocess.run([*self.enter, "ip", *words], check=True)

    def close(self) -> None:
        """Ends it."""
        self._holder.communicate("")


class Running:
    """A pod: process 1 of its container, in its network."""

    def __init__(self, cluster: Cluster, name: str, workload: Workload, extra: Mapping[str, Path]) -> None:
        self.name, self.workload = name, workload
        self.log = cluster.directory / f"{name}.log"
        self._network, self.address = cluster.attach()
        root = cluster.directory / f"root-{name}"
        root.mkdir()
        self.environ = {**_image(workload), **workload.environ}
        spec = {
            "root": str(root), "folders": {**_folders(cluster, workload), **_texts(extra)},
            "writable": dict(_writable(workload)),
            "user": f"{workload.pod['securityContext']['runAsUser']}:{GROUP}", "folder": "/",
            "command": _command(workload), "environ": self.environ,
            "etc": {"resolv.conf": RESOLV},
        }  # fmt: skip
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        with self.log.open("wb") as written:
            self.popen = subprocess.Popen(
                [*_MORTAL, *self._network.enter, *alone, sys.executable, str(_ENCLOSE), json.dumps(spec)],
                stdout=written, stderr=written,
            )  # fmt: skip

    def pid(self) -> int:
        """Of its program, as seen from outside."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children")
        wait_for(lambda: children.read_text().split(), lambda: f"{self.name} did not start: {self.said()}")
        return int(children.read_text().split()[0])

    def inside(self) -> list[str]:
        """What a command begins with that runs in its container."""
        inside = ["nsenter", "--target", str(self.pid()), "--mount", "--net", "--pid", "--root", "--wdns=/"]
        return [*inside, f"--setuid={GROUP}", f"--setgid={GROUP}"]

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """As `kubectl exec`."""
        return subprocess.run(
            [*self.inside(), *command],
            env=self.environ | environ, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def end(self) -> int:
        """As the kubelet ends it: preStop, SIGTERM, and after the grace SIGKILL. The exit code."""
        grace_s = self.workload.pod["terminationGracePeriodSeconds"] - self.workload.pre_stop_s
        time.sleep(self.workload.pre_stop_s)
        os.kill(self.pid(), signal.SIGTERM)
        try:
            return self.popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
        finally:
            self._network.close()

    def kill(self) -> None:
        """Ends it now."""
        self.popen.kill()
        self.popen.wait()

    def said(self) -> str:
        """Its output."""
        return self.log.read_text()


class Cluster:
    """All Deployments of an overlay."""

    def __init__(self, directory: Path, objects: list[Object], app: Mapping[str, Path]) -> None:
        self.directory, self.objects, self.app = directory, objects, app
        self.workloads = workloads(objects)
        self.pods: dict[str, Running] = {}
        self.told: dict[str, dict[str, Any]] = {}
        self.events: list[str] = []
        self._mounted: dict[Path, tuple[str, Mapping[str, str]]] = {}
        self._numbers, self._lock = itertools.count(2), threading.Lock()
        self._volumes()
        self._network = Network()
        self._network.ip("link", "add", "br0", "type", "bridge")
        self._network.ip("address", "add", f"{NODE}/24", "dev", "br0")
        self._network.ip("link", "set", "br0", "up")
        self._node = self._start_node()

    def attach(self) -> tuple[Network, str]:
        """A network of a pod's own, on the cluster's, and the pod's address."""
        network = Network()
        with self._lock:
            number = next(self._numbers)
        self._network.ip(
            "link", "add", f"pod{number}", "type", "veth", "peer", "name", "eth0", "netns", str(network.pid)
        )
        self._network.ip("link", "set", f"pod{number}", "master", "br0", "up")
        network.ip("address", "add", f"10.77.0.{number}/24", "dev", "eth0")
        network.ip("link", "set", "eth0", "up")
        return network, f"10.77.0.{number}"

    def start(self, workload: str, name: str) -> Running:
        """A pod of a Deployment, which the node asks from now on."""
        one = Running(self, name, self.workloads[workload], {})
        self.pods[name] = one
        self._tell(
            pod=name, component=workload, address=one.address, container=one.workload.container,
            inside=one.inside(), environ=one.environ,
        )  # fmt: skip
        return one

    def beside(self, name: str, workload: Workload, extra: Mapping[str, Path]) -> Running:
        """A pod that is none of the overlay's."""
        one = Running(self, name, workload, extra)
        self.pods[name] = one
        return one

    def ready(self, name: str) -> bool:
        """Whether its probe says so. Fails where a kubelet would start it again."""
        one, told = self.pods[name], self.told.get(name, {})
        assert one.popen.poll() is None, f"{name} ended: {one.said()}"
        assert "dead" not in told, f"{name}: {told['dead']}: {one.said()}"
        return bool(told.get("ready"))

    def until_ready(self, *names: str) -> None:
        """Waits for them."""
        for name in names:
            wait_for(partial(self.ready, name), partial(self._unready, name))

    def _unready(self, name: str) -> str:
        return f"{name} is not ready: {self.pods[name].said()}"

    def end(self, name: str) -> int:
        """Takes its address from its Service's name, then ends it as its manifest says."""
        self._tell(leaves=name)
        self.note(leaves=name)
        code = self.pods.pop(name).end()
        self.note(left=name, code=code)
        return code

    def end_now(self, name: str) -> None:
        """As a node that dies takes it along: unannounced. Its address is gone when that is noticed."""
        self.pods[name].kill()
        self.pods.pop(name)
        self._tell(leaves=name)

    def roll(self, workload: str, old: Sequence[str]) -> list[str]:
        """As the controller: one more, and when it has been ready for `minReadySeconds` one of the old goes.

        The names of the new ones; AssertionError where an old one was killed, or ended badly.
        """
        wait_s = self.workloads[workload].deployment["spec"].get("minReadySeconds", 0)
        codes: dict[str, int] = {}
        said: dict[str, Running] = {name: self.pods[name] for name in old}
        ending: list[threading.Thread] = []
        new = [f"{name}-next" for name in old]
        for gone, come in zip(old, new, strict=True):
            self.note(comes=come)
            self.start(workload, come)
            self.until_ready(come)
            time.sleep(wait_s)
            ending.append(threading.Thread(target=lambda gone=gone: codes.update({gone: self.end(gone)})))
            ending[-1].start()
        for one in ending:
            one.join()
        assert codes == dict.fromkeys(old, 0), "".join(one.said()[-3000:] for one in said.values())
        return new

    def swap_config(self, text: str) -> None:
        """As the kubelet brings a changed ConfigMap: a new folder, and one link that is turned to it."""
        _publish(self.directory / "configmap", {"headgate.yaml": text.encode()}, 0o444)

    def volume(self, name: str) -> Path:
        """Where a ConfigMap's files are."""
        return self.directory / name

    def swap_secret(self, name: str, data: Mapping[str, str]) -> None:
        """As the kubelet brings a changed Secret to every pod that mounts it."""
        of_kind(self.objects, "Secret")[name]["data"] = dict(data)
        for folder, (secret, keys) in self._mounted.items():
            if secret == name:
                self._bring(folder, name, keys)

    def secret(self, name: str, keys: Mapping[str, str]) -> Path:
        """A folder with these files of a Secret, and no others."""
        folder = self.directory / "-".join(["secret", name, *keys.values()])
        with self._lock:
            if folder not in self._mounted:
                self._mounted[folder] = (name, keys)
                self._bring(folder, name, keys)
        return folder

    def _bring(self, folder: Path, name: str, keys: Mapping[str, str]) -> None:
        data = of_kind(self.objects, "Secret")[name]["data"]
        _publish(folder, {path: base64.b64decode(data[key]) for key, path in keys.items()}, 0o440)

    def close(self) -> None:
        """Ends all that runs in it."""
        for one in self.pods.values():
            one.kill()
        assert self._node.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._node.stdin.close()
        self._node.wait(10)
        self._network.close()

    def _volumes(self) -> None:
        text = of_kind(self.objects, "ConfigMap")["headgate-config"]["data"]["headgate.yaml"]
        _publish(self.directory / "configmap", {"headgate.yaml": text.encode()}, 0o444)

    def _start_node(self) -> subprocess.Popen[str]:
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        node = subprocess.Popen(
            [*_MORTAL, *self._network.enter, sys.executable, "-m", "tests.deploy.node"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self._node = node
        services = {name: one["spec"]["selector"] for name, one in of_kind(self.objects, "Service").items()}
        named = {name: told["app.kubernetes.io/component"] for name, told in services.items()}
        self._tell(services=named, domain=DOMAIN, listen=NODE)
        assert node.stdout is not None
        assert json.loads(node.stdout.readline()) == {"listens": True}
        threading.Thread(target=self._hear, args=(node.stdout,), daemon=True).start()
        return node

    def _hear(self, lines: Any) -> None:
        for line in lines:
            told = json.loads(line)
            self.note(**told)
            self.told[told["pod"]] = self.told.get(told["pod"], {}) | told

    def note(self, **what: object) -> None:
        """Keeps what happened, and when, for who asks why."""
        self.events.append(f"{time.time():.1f} {json.dumps(what)}")

    def _tell(self, **what: object) -> None:
        assert self._node.stdin is not None
        with self._lock:
            self._node.stdin.write(json.dumps(what) + "\n")
            self._node.stdin.flush()


def _publish(folder: Path, files: Mapping[str, bytes], mode: int) -> None:
    """Files of root's, for the group to read, behind a link `..data`."""
    folder.mkdir(exist_ok=True)
    fresh = folder / f"..{time.monotonic_ns()}"
    fresh.mkdir()
    for name, data in files.items():
        (fresh / name).write_bytes(data)
        (fresh / name).chmod(mode)
        os.chown(fresh / name, 0, GROUP)
    turned = folder / "..turned"
    turned.symlink_to(fresh.name)
    turned.replace(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def _image(workload: Workload) -> dict[str, str]:
    return workload.stage.environ if workload.role else {"PATH": "/usr/local/bin:/usr/bin:/bin"}


def _command(workload: Workload) -> list[str]:
    """An engine looks a bare name up in the PATH."""
    first, *rest = workload.command
    return [first if first.startswith("/") else f"/valkey/{first}", *rest]


def _writable(workload: Workload) -> list[tuple[str, int]]:
    return [
        (place, byte_count(volume["emptyDir"]["sizeLimit"]))
        for place, volume, _ in workload.volumes()
        if "emptyDir" in volume
    ]


def _folders(cluster: Cluster, workload: Workload) -> dict[str, str]:
    found = _texts(cluster.app)
    for place, volume, _ in workload.volumes():
        if "configMap" in volume:
            found[place] = str(cluster.volume("configmap"))
        if "secret" in volume:
            keys = {item["key"]: item["path"] for item in volume["secret"]["items"]}
            found[place] = str(cluster.secret(volume["secret"]["secretName"], keys))
    return found


def _texts(folders: Mapping[str, Path]) -> dict[str, str]:
    return {place: str(path) for place, path in folders.items()}
