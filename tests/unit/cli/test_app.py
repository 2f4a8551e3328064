from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from headgate.adapters import settings
from headgate.adapters.config import Config
from headgate.cli import __main__ as entry
from headgate.cli import app
from headgate.gateway.admission import Keyring

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in an empty folder; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def line(*arguments: str, **environ: str) -> tuple[int, str, str]:
        code = app.run(arguments, environ)
        out, err = capsys.readouterr()
        return code, out, err

    return line


def test_version(run):
    assert run("--version")[:2] == (0, f"headgate {version('headgate')}\n")


def test_help_teaches_with_examples(run):
    code, out, _ = run("--help")
    assert code == 0
    names = "up demo ask route status reload doctor config keys outcomes jobs"
    for command in names.split():
        assert command in out
        assert "headgate" in run(command, "--help")[1]
    assert 'headgate ask "' in out


def test_wrong_usage_is_exit_code_2(run):
    code, _, err = run("ask", "--no-such-flag")
    assert code == 2
    assert "--no-such-flag" in err


def test_nobody_there_says_what_to_do(run):
    code, out, err = run("ask", "12 + 30 = ?", "--address", "127.0.0.1:1", "--timeout", "5")
    assert (code, out.strip()) == (1, "")
    assert err == "headgate: no gateway answers at 127.0.0.1:1: run `headgate up`, or give --address\n"


def test_operators_are_told_where_nobody_answers_and_the_rest_is_reloaded(run):
    code, out, err = run("status", "--admin", "127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err == "headgate: no gateway answers at 127.0.0.1:1: is it running here?\n"
    code, out, err = run("reload", "--admin", "127.0.0.1:1", "--admin", "127.0.0.1:2")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"no gateway answers at 127.0.0.1:{port}: is it running here?" for port in (1, 2)
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("route", ""), "the question is empty"),
        (("ask", " "), "the question is empty"),
        (("ask", "hi", "--timeout", "0"), "--timeout must be above 0 and at most 600 seconds"),
        (
            ("ask", "hi", "--root-certificate", "none.pem"),
            "--root-certificate: none.pem cannot be read: No such file or directory",
        ),
    ],
)
def test_a_call_that_cannot_be_made_names_what_to_mend(run, arguments, expected):
    assert run(*arguments) == (1, "", f"headgate: {expected}\n")


def test_an_early_ctrl_c_ends_without_a_word(monkeypatch, capsys):
    class Pressed:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "headgate.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "headgate.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Pressed(), *sys.meta_path])
    assert entry.main() == 130
    assert capsys.readouterr() == ("", "")


def test_config_validate_names_backends_and_bundles_that_are_not_there(run):
    text = "version: 1\ngateway: {open: true}\npool:\n  small:\n    backend: opnai\n  large: {}\n"
    Path("headgate.yaml").write_text(text + "policy:\n  bundle: none.bundle\n")
    code, out, err = run("config", "validate")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "headgate.yaml:5: pool.small.backend: no backend 'opnai' is installed; "
        "there are: builtin, hf, openai, replay",
        "headgate.yaml:8: policy.bundle: none.bundle cannot be read: No such file or directory",
    ]
    Path("headgate.yaml").write_text(text.replace("opnai", "opnai\n    worker: 127.0.0.1:7080"))
    code, out, err = run("config", "validate")
    assert (code, out) == (0, "headgate.yaml is valid\n")
    assert err.startswith("warning: headgate.yaml:5: pool.small.backend: no backend 'opnai' is installed")


KEYED = """\
version: 1
gateway: {pepper: env:P}
tenants:
  shop:
    keys: [{id: a, hmac_sha256: "%s"}]
""" % ("0" * 64)
ON = "cache:\n  semantic: {enabled: true}\n"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (KEYED, ""),
        (
            KEYED + ON,
            "7: cache.semantic.enabled: does nothing, for no tenant wants it; write `semantic_cache: true`",
        ),
        (
            KEYED + "    semantic_cache: true\n",
            "6: tenants.shop.semantic_cache: does nothing while the operator's switch is off; "
            "write `cache: {semantic: {enabled: true}}`",
        ),
        (
            KEYED + "    semantic_cache: true\n" + ON + "  enabled: false\n",
            "8: cache.semantic.enabled: does nothing while cache.enabled is false",
        ),
        (KEYED + "    semantic_cache: true\n" + ON, ""),
        ("version: 1\ngateway: {open: true}\n" + ON, ""),
    ],
)
def test_config_validate_warns_of_a_semantic_cache_that_serves_nobody(run, text, warning):
    Path("headgate.yaml").write_text(text)
    code, out, err = run("config", "validate")
    assert (code, out) == (0, "headgate.yaml is valid\n")
    assert err.startswith(f"warning: headgate.yaml:{warning}" if warning else "")
    assert len(err.splitlines()) == bool(warning)


def test_up_asks_for_all_secrets_before_it_starts_anything(run):
    more = "pool:\n  small: {api_key: env:NONE}\n  large: {api_key: env:NONE, worker: 127.0.0.1:1}\n"
    Path("headgate.yaml").write_text(KEYED + more + "redis: {url: file:none.txt}\n")
    code, out, err = run("up")
    assert (code, out) == (1, "")
    sentence = "gateway.pepper: the environment variable P is not set, or is empty"
    assert err == f"headgate: {sentence} (and 2 more)\n"
    code, _, err = run("up", P="pep")
    assert err == "headgate: redis.url: none.txt: cannot be read: No such file or directory (and 1 more)\n"


def test_a_short_pepper_is_warned_about(run):
    for pepper, warned in (("pep", True), ("0" * 32, False)):
        code, _, err = run("keys", "new", "--pepper", "env:P", P=pepper)
        assert code == 0
        assert ("warning: the pepper has less than 16 bytes" in err) is warned
        assert pepper not in err.replace("pepper", "")


def test_an_admin_port_that_is_any_free_one_has_to_be_given(run):
    code, _, err = run("status", HEADGATE_GATEWAY__ADMIN_LISTEN="127.0.0.1:0")
    assert code == 1
    assert "--admin" in err


def test_a_broken_config_is_one_sentence_and_no_traceback(run):
    Path("headgate.yaml").write_text("version: 1\ngateway:\n  opne: true\n")
    for command in (("ask", "hi"), ("up",), ("config", "show")):
        code, _, err = run(*command)
        assert code == 1
        assert err == "headgate: headgate.yaml:3: gateway.opne: no such setting; did you mean 'open'?\n"
    assert "Traceback" in run("--debug", "config", "show")[2]


def test_an_unexpected_error_keeps_its_text_to_itself(run, monkeypatch):
    def explode(*_: object) -> None:
        raise RuntimeError("the prompt was: secret")

    monkeypatch.setattr(settings, "load", explode)
    code, _, err = run("config", "show")
    assert code == 1
    assert "unexpected RuntimeError" in err
    assert "secret" not in err


def test_config_validate_lists_every_problem(run):
    Path("headgate.yaml").write_text("version: 1\ngateway:\n  open: true\n  a: 1\n  b: 2\n")
    code, out, err = run("config", "validate")
    assert (code, out) == (1, "")
    assert [line.split(":")[1] for line in err.splitlines()] == ["4", "5"]
    Path("headgate.yaml").write_text("version: 1\ngateway:\n  open: true\n")
    assert run("config", "validate")[:2] == (0, "headgate.yaml is valid\n")


def test_config_show_prints_what_it_would_read_again(run):
    code, out, _ = run("config", "show", HEADGATE_GATEWAY__PROCESSES="3")
    assert code == 0
    shown = yaml.safe_load(out)
    assert shown["gateway"] == {"open": True, "processes": 3}
    everything = yaml.safe_load(run("config", "show", "--all")[1])
    assert everything["gateway"]["drain_s"] == 5
    Path("headgate.yaml").write_text(out)
    assert yaml.safe_load(run("config", "show")[1]) == shown


def test_config_show_never_resolves_a_secret(run):
    Path("headgate.yaml").write_text("version: 1\ngateway: {open: true}\nredis: {url: env:REDIS}\n")
    _, out, err = run("config", "show", "--all", REDIS="redis://:hunter2@host")
    assert "env:REDIS" in out
    assert "hunter2" not in out + err


@pytest.mark.parametrize(
    "secret", ["redis: {url: 'redis://:hunter2@host'}", "pool: {m: {base_url: 'https://me:hunter2@host/v1'}}"]
)
def test_config_show_prints_no_secret_that_the_file_should_not_have(run, secret):
    Path("headgate.yaml").write_text(f"version: 1\ngateway: {{open: true}}\n{secret}\n")
    code, out, err = run("config", "show")
    assert (code, out) == (1, "")
    assert re.match(r"headgate: headgate\.yaml:3: (redis\.url|pool\.m\.base_url): .*file:PATH\n$", err)
    assert "hunter2" not in err


def test_a_new_key_opens_with_the_hmac_that_it_prints(run):
    code, out, err = run(
        "keys", "new", "--id", "web", "--pepper", "env:HEADGATE_PEPPER", HEADGATE_PEPPER="pep"
    )
    assert code == 0
    key_id, _, secret = out.strip().partition(".")
    assert key_id == "web"
    assert len(secret) >= 32
    assert secret not in err
    [entry] = yaml.safe_load(err.splitlines()[-1])
    config = {
        "version": 1,
        "gateway": {"pepper": "env:HEADGATE_PEPPER"},
        "tenants": {"shop": {"keys": [entry]}},
    }
    Path("headgate.yaml").write_text(yaml.safe_dump(config))
    assert run("config", "validate", HEADGATE_PEPPER="pep")[0] == 0
    caller = Keyring(Config.model_validate(config), b"pep").identify(f"Bearer {out.strip()}", 0.0)
    assert caller.tenant == "shop"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--id", "a.b", "--pepper", "env:P"), "a key's id is"),
        (("--id", "a"), "which pepper?"),
        (("--id", "a", "--pepper", "env:NONE"), "the environment variable NONE is not set"),
    ],
)
def test_a_key_that_cannot_be_made_says_why(run, arguments, expected):
    code, out, err = run("keys", "new", *arguments, P="pep")
    assert (code, out) == (1, "")
    assert expected in err


def test_doctor_as_json(run):
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    checks = {finding["check"]: finding for finding in report["findings"]}
    assert report["healthy"] == (code == 0)
    assert checks["weights small"]["detail"].startswith("load, sha256:")
    assert {"python", "onnxruntime", "valkey", "config", "bundle", "port 127.0.0.1:7070"} <= set(checks)
    assert all(finding["remedy"] for finding in report["findings"] if finding["verdict"] != "ok")
