from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from headgate.adapters.settings import BUILT_IN, ConfigError, load, read, resolve_secret

SMALLEST = "version: 1\ngateway:\n  open: true\n"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "headgate.yaml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def sentence(text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(text), environ)
    return str(caught.value)


# Where the settings come from


def test_without_a_file_the_laptop_default_holds():
    loaded = load(None, {})
    assert loaded.path is None
    assert list(loaded.config.pool) == ["small", "large"]
    assert loaded.config.gateway.open
    assert loaded.digest == hashlib.sha256(BUILT_IN.encode()).hexdigest()


def test_the_folders_file_the_variables_file_and_the_flags_file_win_in_that_order():
    write(SMALLEST + "  processes: 2\n")
    named = write(SMALLEST + "  processes: 3\n", "named.yaml")
    given = write(SMALLEST + "  processes: 4\n", "given.yaml")
    assert load(None, {}).config.gateway.processes == 2
    assert load(None, {"HEADGATE_CONFIG": str(named)}).config.gateway.processes == 3
    assert load(given, {"HEADGATE_CONFIG": str(named)}).config.gateway.processes == 4


def test_flags_win_over_variables_and_variables_over_the_file():
    path = write(SMALLEST + "  processes: 2\n  drain_s: 1\n  lame_duck_s: 7\n")
    environ = {"HEADGATE_GATEWAY__PROCESSES": "3", "HEADGATE_GATEWAY__DRAIN_S": "2.5"}
    gateway = load(path, environ, {"gateway.processes": 4}).config.gateway
    assert (gateway.processes, gateway.drain_s, gateway.lame_duck_s) == (4, 2.5, 7)


def test_the_digest_is_that_of_the_file():
    path = write(SMALLEST)
    assert load(path, {}).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_or_unreadable_file_is_one_sentence():
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load(Path("none.yaml"), {})
    Path("latin.yaml").write_bytes(b"version: 1 # \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8"):
        load(Path("latin.yaml"), {})


# What is wrong, and where


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "version: 1\ngateway:\n  opne: true\n",
            "headgate.yaml:3: gateway.opne: no such setting; did you mean 'open'?",
        ),
        (
            "version: 1\ngatway:\n  open: true\n",
            "headgate.yaml:2: gatway: no such setting; did you mean 'gateway'?",
        ),
        (SMALLEST + "  open: false\n", "headgate.yaml:4: the key 'open' stands here twice"),
        (SMALLEST + "pool:\n  m: {}\n  m: {}\n", "headgate.yaml:6: the key 'm' stands here twice"),
        ("gateway:\n  open: true\n", "headgate.yaml:1: version: required; write `version: 1`"),
        ("version: 2\ngateway:\n  open: true\n", "headgate.yaml:1: version: must be 1"),
        (
            SMALLEST + "  listen: here\n",
            "headgate.yaml:4: gateway.listen: must be host:port, such as 127.0.0.1:7070",
        ),
        (SMALLEST + "  processes: many\n", "headgate.yaml:4: gateway.processes: must be a valid integer"),
        (
            SMALLEST + "cache:\n  semantic: true\n",
            "headgate.yaml:5: cache.semantic: is a section: write `semantic: {enabled: true}`",
        ),
        (SMALLEST + "policy: 0.1\n", "headgate.yaml:4: policy: is a section: write `policy: {…}`"),
        (SMALLEST + "pool:\n", "headgate.yaml:4: pool: is a section: write `pool: {…}`"),
        (SMALLEST + "pool:\n  m: x\n", "headgate.yaml:5: pool.m: is a section: write `m: {…}`"),
        (
            SMALLEST + "pool:\n  m:\n    slots: 0\n",
            "headgate.yaml:6: pool.m.slots: must be greater than or equal to 1",
        ),
        (
            SMALLEST + "pool:\n  m:\n    capabilities: [vision, Deutsch]\n",
            "headgate.yaml:6: pool.m.capabilities.1: must be 1 to 64 lower-case letters",
        ),
        (SMALLEST + "pool:\n  'a b': {}\n", "headgate.yaml:5: pool.a b: must be 1 to 64 letters"),
        (
            SMALLEST + "jobs:\n  batch_hours: [22-6]\n",
            "headgate.yaml:5: jobs.batch_hours: '22' must be a time of day, such as 22:00",
        ),
        (
            SMALLEST + "jobs:\n  time_zone: Mars\n",
            "headgate.yaml:5: jobs.time_zone: no time zone 'Mars' is known here",
        ),
        (
            SMALLEST + "policy:\n  cascade: {upgrade_later: true}\n",
            "headgate.yaml:5: policy.cascade.upgrade_later: an upgrade is a job; set jobs.enabled",
        ),
        (
            SMALLEST + "policy:\n  reference: m\n",
            "headgate.yaml:5: policy.reference: the pool has no model 'm'",
        ),
        (
            SMALLEST + "policy:\n  risk_target: 0.1\n  budget_nanousd: 1\n",
            "headgate.yaml:4: policy: give risk_target",
        ),
        (
            SMALLEST + "pool:\n  gpt-5.1:\n    slotz: 1\n",
            "headgate.yaml:6: pool.gpt-5.1.slotz: no such setting; did you",
        ),
        ("version: 1\n", "headgate.yaml:1: tenants: add one, or set gateway.open: true"),
        ("version: 1\nx: [\n", "headgate.yaml:3: not valid YAML"),
        ("version: 1\nx: !!python/name:os.system\n", "headgate.yaml:2: the tag"),
        ("- 1\n", "headgate.yaml:1: must be a mapping"),
        ("", "headgate.yaml:1: version: required"),
    ],
)
def test_every_problem_names_file_line_and_key(text, expected):
    found = sentence(text)
    assert found.startswith(expected), found
    assert "\n" not in found


def test_all_problems_are_listed_in_the_order_of_the_file():
    with pytest.raises(ConfigError) as caught:
        load(write("version: 1\npool:\n  m: {slots: 0}\ngateway:\n  open: true\n  a: 1\n  drain_s: -1\n"), {})
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["3", "6", "7"]
    assert str(caught.value).endswith("(and 2 more)")


# Overrides


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "HEADGATE_GATEWAY__LISTN",
            "127.0.0.1:1",
            "HEADGATE_GATEWAY__LISTN: gateway has no setting 'listn'; did you mean",
        ),
        (
            "HEADGATE_GATEWY__LISTEN",
            "127.0.0.1:1",
            "HEADGATE_GATEWY__LISTEN: the config has no setting 'gatewy'",
        ),
        (
            "HEADGATE_POOL__SMAL__SLOTS",
            "2",
            "HEADGATE_POOL__SMAL__SLOTS: pool has no setting 'smal'; did you mean 'small'?",
        ),
        (
            "HEADGATE_GATEWAY__PROCESSES",
            "many",
            "HEADGATE_GATEWAY__PROCESSES: gateway.processes: must be a valid integer",
        ),
        (
            "HEADGATE_GATEWAY__OPEN__NOW",
            "1",
            "HEADGATE_GATEWAY__OPEN__NOW: gateway.open has no setting 'now'",
        ),
        ("HEADGATE_LISTEN", "x", "HEADGATE_LISTEN: the config has no setting 'listen'"),
    ],
)
def test_a_wrong_override_is_refused_by_its_name(name, value, expected):
    assert sentence(SMALLEST, **{name: value}).startswith(expected)


def test_overrides_are_typed_and_reach_models_by_their_folded_names():
    path = write(SMALLEST + "pool:\n  GPT-5.1: {source: x}\n  small: {}\n")
    environ = {
        "HEADGATE_POOL__GPT_5_1__SLOTS": "9",
        "HEADGATE_CACHE__ENABLED": "false",
        "HEADGATE_LOG_LEVEL": "debug",
    }
    config = load(path, environ).config
    assert config.pool["GPT-5.1"].slots == 9
    assert config.cache.enabled is False
    assert config.log_level == "debug"


def test_an_override_reaches_the_default_pool():
    config = load(None, {"HEADGATE_POOL__LARGE__QUEUE": "3"}).config
    assert (config.pool["large"].queue, config.pool["large"].source) == (3, "large")
    assert config.pool["small"].queue == 8


def test_an_empty_override_takes_a_setting_back_to_its_default():
    path = write(SMALLEST + "  processes: 4\n")
    assert load(path, {"HEADGATE_GATEWAY__PROCESSES": ""}).config.gateway.processes == 1


def test_lists_and_mappings_are_written_as_in_yaml():
    environ = {"HEADGATE_GATEWAY__TLS": "{certificate: a.pem, key: b.pem}"}
    tls = load(write(SMALLEST), environ).config.gateway.tls
    assert tls is not None
    assert (tls.certificate, tls.key) == ("a.pem", "b.pem")
    assert sentence(SMALLEST, HEADGATE_GATEWAY__TLS="{certificate").startswith(
        "HEADGATE_GATEWAY__TLS: not valid YAML"
    )


def test_what_others_put_into_the_environment_is_no_override():
    path = write("version: 1\ngateway:\n  pepper: env:HEADGATE_MY_PEPPER\ntenants:\n  a:\n    keys:\n"
                 f"      - {{id: k, hmac_sha256: {'a' * 64}, expires: 2027-01-31}}\n")  # fmt: skip
    environ = {
        "HEADGATE_MY_PEPPER": "referred to by the file",
        "HEADGATE_KEY": "the command line's",
        "HEADGATE_SERVICE_HOST": "10.0.0.1",
        "HEADGATE_GATEWAY_PORT_7070_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    assert load(path, environ).config.tenants["a"].keys[0].expires == "2027-01-31"


# Secrets


def test_a_secret_written_into_the_file_is_refused_and_not_repeated():
    found = sentence(SMALLEST + "pool:\n  m:\n    api_key: sk-very-secret\n")
    assert found.startswith("headgate.yaml:6: pool.m.api_key: must be a reference")
    assert "sk-very" not in found


def test_wrong_values_are_never_repeated():
    assert "hunter2" not in sentence(SMALLEST + "redis:\n  url: http://:hunter2@host\n")
    assert "hunter2" not in sentence(SMALLEST, HEADGATE_REDIS__URL="redis://:hunter2@host")
    assert "hunter2" not in sentence(SMALLEST + "pool:\n  m: {base_url: 'http://me:hunter2@host/v1'}\n")


def test_references_are_resolved():
    Path("key").write_text("s3cret\n")
    assert resolve_secret("env:KEY", {"KEY": "s3cret"}) == "s3cret"
    assert resolve_secret("file:key", {}) == "s3cret"


@pytest.mark.parametrize("reference", ["env:NONE", "env:EMPTY", "file:none", "file:blank", "s3cret"])
def test_a_reference_that_leads_nowhere_is_an_error(reference):
    Path("blank").write_text(" \n")
    with pytest.raises(ConfigError) as caught:
        resolve_secret(reference, {"EMPTY": ""})
    assert "s3cret" not in str(caught.value)


def test_what_flags_hide_is_still_known():
    text = "version: 1\ngateway: {open: true, listen: '127.0.0.1:1'}\n"
    flags = {"gateway.listen": "127.0.0.1:2"}
    loaded = read(text, None, {"HEADGATE_GATEWAY__DRAIN_S": "9"}, flags)
    assert loaded.config.gateway.listen == "127.0.0.1:2"
    assert loaded.written.gateway.listen == "127.0.0.1:1"
    assert loaded.written.gateway.drain_s == 9
    only_with_flags = text.replace("127.0.0.1:1", "10.0.0.1:1")
    loaded = read(only_with_flags, None, {}, flags)
    assert loaded.written == loaded.config
