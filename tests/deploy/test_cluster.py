"""Every process as the overlay `dev` runs it: found by name, probed by address, rolled under load.

The programs come from this checkout's wheel and the tests' own libraries; what an image holds is for
test_containers.py. Valkey is the wheel's, with the manifest's flags.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headgate.gateway.admission import digest
from tests.deploy import called
from tests.deploy.called import KINDS, difference, goes_on, told
from tests.deploy.cluster import Cluster
from tests.deploy.guide import Reader, blocks
from tests.deploy.images import ROOT
from tests.deploy.manifests import byte_count, config_text, load
from tests.deploy.pod import wait_for
from tests.deploy.stack import peak_bytes, tree

GUIDE = (ROOT / "docs/howto/run-on-kubernetes.md").read_text()
KEY, PEPPER = "dev.everybody-knows-it", b"a-pepper-that-everybody-knows"
ADDRESS = "dns:///gateway.headgate:7070"
"""As a caller in another namespace writes it."""
CALLS = 5
"""That the caller has on their way at a time, jobs not counted."""
_PLAIN = """
import sys
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

options = [("grpc.service_config", sys.argv[2])]
channel = grpc.insecure_channel(sys.argv[1], options)
health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
"""
REPLICAS = {"worker-small": 2, "worker-large": 1, "gateway": 2, "runner": 1, "reconciler": 1}


@pytest.fixture(scope="module")
def cluster(
    app: dict[str, Path], hands: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """All of it, ready, and a caller in a namespace of its own who asks all the time."""
    one = Cluster(tmp_path_factory.mktemp("cluster").resolve(), load("dev"), app)
    try:
        one.start("valkey", "valkey-0")
        one.until_ready("valkey-0")
        names = [f"{name}-{number}" for name, count in REPLICAS.items() for number in range(count)]
        for name in names:
            one.start(name.rpartition("-")[0], name)
        one.until_ready(*names)
        one.beside("caller", called.by(ADDRESS, KEY), {})
        wait_for(lambda: told(one).keys() >= set(KINDS), lambda: one.pods["caller"].said())
        yield one
    finally:
        one.close()


def _of(cluster: Cluster, workload: str) -> list[str]:
    return [name for name, one in cluster.pods.items() if one.workload.name == workload]


@pytest.mark.parametrize("workload", REPLICAS)
def test_it_has_the_rights_of_its_manifest(cluster: Cluster, workload: str) -> None:
    one = cluster.pods[_of(cluster, workload)[0]]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{one.pid()}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == {str(one.workload.pod["securityContext"]["runAsUser"])}
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    writable = {place for place, volume, _ in one.workload.volumes() if "emptyDir" in volume}
    for place in ("/", "/tmp", "/dev/shm", "/etc/headgate", "/run/secrets/headgate"):
        wrote = one.run("/bin/sh", "-c", f"echo >{place}/x").returncode == 0
        assert wrote == (place in writable), place
    command = Path(f"/proc/{one.pid()}/cmdline").read_bytes().split(b"\0")[:-1]
    assert [word.decode() for word in command] == one.workload.command


def test_it_sees_its_secrets_and_no_others(cluster: Cluster) -> None:
    for workload in REPLICAS:
        one = cluster.pods[_of(cluster, workload)[0]]
        seen = one.run("/bin/sh", "-c", "ls /run/secrets/headgate").stdout.split()
        wanted = [
            Path(file).name for file in one.workload.files() if file.startswith("/run/secrets/headgate/")
        ]
        assert sorted(seen) == sorted(wanted)
        for file in one.workload.files():
            assert one.run("/bin/cat", file).stdout.strip(), file


def test_operators_reach_it_from_inside(cluster: Cluster) -> None:
    for name in _of(cluster, "gateway"):
        run = cluster.pods[name].run("headgate", "status")
        assert "small" in run.stdout, run.stderr


def test_a_gateway_says_where_it_waits(cluster: Cluster) -> None:
    operate = (ROOT / "docs/howto/operate.md").read_text()
    (asked,) = re.findall(r"`kubectl -n headgate exec POD -- (sh [^`]+)`", operate)
    one = cluster.pods[_of(cluster, "gateway")[0]]
    before = len(one.said())
    assert one.run(*shlex.split(asked)).returncode == 0
    wait_for(lambda: "Thread" in one.said()[before:], lambda: "it says nothing")


def test_what_the_guide_runs_in_pods_works(cluster: Cluster, tmp_path: Path) -> None:
    running = {
        name: {"component": one.workload.name, "enter": one.inside(), "environ": one.environ}
        for name, one in cluster.pods.items()
    }
    reader = Reader(tmp_path, running)
    asks, reloads = [
        one.body for one in blocks(GUIDE) if re.search(r"^ *kubectl .* exec ", one.body, re.MULTILINE)
    ]
    run = reader.run(asks)
    assert run.stdout.split() == ["four", "thousand", "seven", "hundred", "eleven"], run.stderr
    run = reader.run(reloads)
    assert run.returncode == 0, run.stderr
    assert sum(" exec " in one for one in reader.told()) == 1 + len(_of(cluster, "gateway"))
    assert not reader.faults()


def test_what_the_guide_gives_callers_works(cluster: Cluster) -> None:
    caller = cluster.pods["caller"]
    (body,) = [one.body for one in blocks(GUIDE) if one.language == "python"]
    assert "search-1.…" in body
    run = caller.run("/app/bin/python", "-c", body.replace("search-1.…", KEY))
    assert run.stdout.split() == ["four", "thousand", "seven", "hundred", "eleven"], run.stderr


def test_a_plain_channel_with_the_guide_s_service_config_is_answered(cluster: Cluster) -> None:
    """And with a service that nobody has the health of it is not: the channel minds the config."""
    (body,) = [one.body for one in blocks(GUIDE) if one.language == "json"]
    wrong = body.replace("RouterService", "RoutersService")
    for config, code in ((body, 0), (wrong, 1)):
        run = cluster.pods["caller"].run("/app/bin/python", "-c", _PLAIN, ADDRESS, config)
        assert run.returncode == code, run.stderr


def test_a_changed_config_map_is_taken_by_a_reload(cluster: Cluster) -> None:
    new, old = "new.someone-else-s", config_text(cluster.objects)
    added = f"  new: {{keys: [{{id: new, hmac_sha256: {digest(PEPPER, 'someone-else-s').hex()}}}]}}\n"
    cluster.swap_config(old + added)
    gateways = [cluster.pods[name] for name in _of(cluster, "gateway")]
    asked = ("headgate", "ask", "2 + 2 = ?")
    assert gateways[0].run(*asked, HEADGATE_KEY=new).returncode != 0
    for one in gateways:
        run = one.run("headgate", "reload")
        assert run.returncode == 0, run.stderr
    assert gateways[0].run(*asked, HEADGATE_KEY=new).stdout.strip()
    cluster.swap_config(old)


def test_a_rolling_restart_of_all_fails_no_request(cluster: Cluster, hands: ThreadPoolExecutor) -> None:
    before = told(cluster)
    old = {name: _of(cluster, name) for name in REPLICAS}
    rolling = [hands.submit(cluster.roll, name, pods) for name, pods in old.items()]
    new = {name: one.result() for name, one in zip(old, rolling, strict=True)}
    after = goes_on(cluster)
    print(f"during the restart of {sum(map(len, new.values()))} pods: {difference(before, after)}")
    failed = difference(before, after)["failed"]
    assert not failed, "\n".join([*cluster.events, *failed[:20], f"{len(failed)} failed", failed[-1]])
    assert not set(cluster.pods) & {pod for pods in old.values() for pod in pods}
    cluster.until_ready(*(name for names in new.values() for name in names))


def test_a_gateway_alone_is_replaced_unnoticed(cluster: Cluster, hands: ThreadPoolExecutor) -> None:
    """The caller knows no other, and finds the new one before the old one's connections end."""
    first, *others = _of(cluster, "gateway")
    for one in others:
        cluster.end(one)
    goes_on(cluster)
    before = told(cluster)
    (new,) = hands.submit(cluster.roll, "gateway", [first]).result()
    failed = difference(before, goes_on(cluster))["failed"]
    assert not failed, "\n".join([*cluster.events, *failed[:20], f"{len(failed)} failed"])
    hands.submit(cluster.start, "gateway", f"{new}-more").result()
    cluster.until_ready(f"{new}-more")


@pytest.mark.parametrize("workload", REPLICAS)
def test_a_pod_that_dies_costs_what_was_on_its_way(cluster: Cluster, workload: str) -> None:
    """A call that it answers just then may fail, once; what comes after goes elsewhere. A job never does."""
    before = told(cluster)
    gone = _of(cluster, workload)[0]
    cluster.end_now(gone)
    cluster.start(workload, f"{gone}-again")
    cluster.until_ready(f"{gone}-again")
    failed = difference(before, goes_on(cluster))["failed"]
    happened = "\n".join([*cluster.events, *failed[:20]])
    assert not [one for one in failed if one.startswith("job")], happened
    assert len(failed) <= (CALLS if workload in ("gateway", "worker-small", "worker-large") else 0), happened


def test_memory_stays_below_the_limits(cluster: Cluster) -> None:
    """Of all that has run and still does; what processes of a pod share counts for each."""
    for name, one in cluster.pods.items():
        if one.workload.role:
            peak, most = peak_bytes(tree(one.pid())), one.workload.container["resources"]["limits"]["memory"]
            print(f"{name}: {peak >> 20} MiB of {most}")
            assert peak < byte_count(most), name
