"""Every process as the overlay `prod-tls` runs it: certificates, probes from inside, a renewal, a rollout.

Keys, hashes and certificates are the test's, and so is the Redis, which stands where `dev` has its Valkey.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headgate.gateway.admission import digest
from tests.authority import Authority
from tests.deploy import called
from tests.deploy.called import KINDS, difference, goes_on, told
from tests.deploy.cluster import Cluster
from tests.deploy.manifests import Object, config_text, load, of_kind
from tests.deploy.pod import wait_for

PEPPER, SECRET, RUNNERS = "a-pepper-of-this-test", "a-caller-of-this-test", "the-runners-of-this-test"
PODS = ("worker-small-0", "worker-large-0", "gateway-0", "gateway-1", "runner-0", "reconciler-0")
ADDRESS = "dns:///gateway.headgate:7070"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _secret(authority: Authority, name: str) -> dict[str, str]:
    """As cert-manager writes it, for a new key."""
    certificate, key = authority.pair(name, "gateway", "gateway.headgate")
    files = {"tls.crt": certificate, "tls.key": key, "ca.crt": authority.certificate}
    return {name: _base64(file.read_text()) for name, file in files.items()}


def _objects(tls: dict[str, str]) -> list[Object]:
    """The overlay with what it says is the operator's to set."""
    objects = load("prod-tls")
    text = config_text(objects)
    for end, secret in (("0", SECRET), ("2", RUNNERS)):
        assert text.count("0" * 63 + end) == 1
        text = text.replace("0" * 63 + end, digest(PEPPER.encode(), secret).hex())
    of_kind(objects, "ConfigMap")["headgate-config"]["data"]["headgate.yaml"] = text
    given = {"pepper": PEPPER, "redis-url": "redis://valkey:6379/0", "runner-key": f"runners.{RUNNERS}"}
    secrets = {
        "headgate-secrets": {key: _base64(value) for key, value in given.items()},
        "headgate-tls": tls,
    }
    objects += [
        {"kind": "Secret", "metadata": {"name": name}, "data": data} for name, data in secrets.items()
    ]
    return objects + [of_kind(load("dev"), kind)["valkey"] for kind in ("Deployment", "Service")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def cluster(
    app: dict[str, Path],
    authority: Authority,
    hands: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """All of it, ready, and a caller who trusts the authority and asks all the time."""
    objects = _objects(_secret(authority, "first"))
    one = Cluster(tmp_path_factory.mktemp("cluster").resolve(), objects, app)
    trusted, strange = authority.certificate.parent, Authority(tmp_path_factory.mktemp("others"))
    try:
        one.start("valkey", "valkey-0")
        one.until_ready("valkey-0")
        for name in PODS:
            one.start(name.rpartition("-")[0], name)
        one.until_ready(*PODS)
        caller = called.by(ADDRESS, f"search-1.{SECRET}", "/authority/ca.crt")
        one.beside("caller", caller, {"/authority": trusted, "/others": strange.certificate.parent})
        wait_for(lambda: told(one).keys() >= set(KINDS), lambda: one.pods["caller"].said())
        yield one
    finally:
        one.close()


def _shown(cluster: Cluster, gateway: str) -> str:
    """The certificate that a new connection is shown."""
    seen = f"import ssl; print(ssl.get_server_certificate(('{cluster.pods[gateway].address}', 7070)))"
    run = cluster.pods["caller"].run("/app/bin/python", "-c", seen)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def _asked(cluster: Cluster, *more: str) -> subprocess.CompletedProcess[str]:
    """By our client, in a pod that nobody rolls."""
    words = ["headgate.client.Client('gateway.headgate:7070'", f"key='search-1.{SECRET}'", *more]
    said = f"import headgate.client; print({', '.join(words)}).generate('2 + 2 = ?', timeout_s=10).text)"
    return cluster.pods["caller"].run("/app/bin/python", "-c", said)


def test_all_kinds_of_calls_come_through(cluster: Cluster) -> None:
    before = told(cluster)
    assert not difference(before, goes_on(cluster))["failed"]


def test_only_who_trusts_the_authority_gets_in(cluster: Cluster, tmp_path: Path) -> None:
    assert _asked(cluster, "root_certificate='/authority/ca.crt'").stdout.strip()
    for more in ((), ("root_certificate='/others/ca.crt'",)):
        assert _asked(cluster, *more).returncode


def test_operators_reach_it_without_tls(cluster: Cluster) -> None:
    run = cluster.pods["gateway-0"].run("headgate", "status")
    assert "small" in run.stdout, run.stderr


def test_a_renewed_certificate_is_shown_without_a_restart(cluster: Cluster, authority: Authority) -> None:
    before, gateways = told(cluster), ("gateway-0", "gateway-1")
    renewed = _secret(authority, "second")
    old = {one: _shown(cluster, one) for one in gateways}
    cluster.swap_secret("headgate-tls", renewed)
    for one in gateways:
        assert old[one] != _shown(cluster, one) == base64.b64decode(renewed["tls.crt"]).decode().strip()
    assert _asked(cluster, "root_certificate='/authority/ca.crt'").stdout.strip()
    assert not difference(before, goes_on(cluster))["failed"]


def test_a_rollout_fails_no_request(cluster: Cluster, hands: ThreadPoolExecutor) -> None:
    """Of the gateways half: each waits the 35 s that other languages' resolvers take."""
    before = told(cluster)
    old = {name.rpartition("-")[0]: name for name in PODS if name != "gateway-1"}
    for rolling in [hands.submit(cluster.roll, workload, [name]) for workload, name in old.items()]:
        rolling.result()
    failed = difference(before, goes_on(cluster))["failed"]
    assert not failed, "\n".join([*cluster.events, *failed[:20]])
