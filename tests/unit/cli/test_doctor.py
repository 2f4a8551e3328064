from __future__ import annotations

import shutil
import socket
from importlib import resources
from pathlib import Path

import pytest

from headgate.adapters import settings
from headgate.cli import doctor
from headgate.cli.state import State

INSTALLED = {"onnxruntime": "1.26.0", "onnxruntime-gpu": "1.26.0"}


def look(*names: str):
    return lambda name: INSTALLED.get(name) if name in names else None


@pytest.mark.parametrize(
    ("names", "verdict", "words"),
    [
        (("onnxruntime",), "ok", "(cpu)"),
        (("onnxruntime-gpu",), "ok", "(gpu)"),
        ((), "fail", 'pip install "headgate[cpu]"'),
        (("onnxruntime", "onnxruntime-gpu"), "fail", "pip uninstall -y onnxruntime onnxruntime-gpu"),
    ],
)
def test_exactly_one_onnx_runtime(names, verdict, words):
    found = doctor.onnx_runtime(look(*names))
    assert found.verdict == verdict
    assert words in f"{found.detail} {found.remedy}"


def test_a_missing_needed_extra_fails_and_an_optional_one_does_not():
    found = {one.check: one for one in doctor.extras(look())}
    assert found["extra server"].verdict == "fail"
    assert found["extra server"].remedy == 'pip install "headgate[server]"'
    assert found["extra hf"].verdict == "ok"


def test_an_old_python_fails():
    assert doctor.python((3, 10)).verdict == "fail"
    assert doctor.python((3, 11)).verdict == "ok"


def test_a_port_in_use_warns_with_its_setting():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        config = settings.read(settings.BUILT_IN, None, {}, {"gateway.listen": address}).config
        found = {one.check: one for one in doctor.free_ports(config)}
    assert found[f"port {address}"].verdict == "warn"
    assert "gateway.listen" in found[f"port {address}"].remedy


def test_a_broken_bundle_fails_and_one_that_is_missing_too(tmp_path):
    shipped = resources.files("headgate.gateway").joinpath("bundles/builtin.bundle").read_bytes()
    broken = tmp_path / "broken.bundle"
    broken.write_bytes(shipped[: len(shipped) // 2] + b"\0" * 64 + shipped[len(shipped) // 2 + 64 :])
    for path in (broken, tmp_path / "none.bundle"):
        found = doctor.bundle(str(path), {})
        assert found.verdict == "fail"
        assert str(path) in found.detail
        assert "does not start" in found.remedy


@pytest.mark.parametrize(("worker", "verdict"), [("", "fail"), (", worker: '127.0.0.1:1'", "warn")])
def test_a_backend_that_nobody_registers_is_named(worker, verdict):
    text = f"version: 1\ngateway: {{open: true}}\npool: {{small: {{backend: opnai{worker}}}}}\n"
    found = doctor.backends(settings.read(text, None, {}).config)
    assert found.verdict == verdict
    assert found.detail.startswith("pool.small.backend: no backend 'opnai' is installed; there are: builtin,")
    assert doctor.backends(settings.read(settings.BUILT_IN, None, {}).config).verdict == "ok"


def test_a_certificate_for_other_weights_warns():
    versions, _ = doctor.weights()
    assert set(versions) == {"small", "large"}
    certified = [f"{model}@{version}" for model, version in versions.items()]
    assert doctor._covers("b", certified, versions).verdict == "ok"
    assert doctor._covers("b", certified, {**versions, "small": "sha256:other"}).verdict == "warn"
    assert doctor._covers("b", [], versions).verdict == "warn"


def test_a_wrong_config_fails_and_ends_no_other_check(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headgate.yaml").write_text("version: 1\nx: 1\n")
    found = {one.check: one for one in doctor.examine(State({"PATH": str(shutil.which("env"))}))}
    assert found["config"].verdict == "fail"
    assert "headgate.yaml:2" in found["config"].detail
    assert found["bundle"].verdict in ("ok", "warn")
