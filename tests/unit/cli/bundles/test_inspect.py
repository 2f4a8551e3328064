from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.router import bundle as bundles

Run = Callable[..., tuple[int, str, str]]


def test_a_bundle_is_checked_and_shown(run: Run, made: Path) -> None:
    code, out, err = run("bundle", "inspect", made)
    bundle = bundles.load(made.read_bytes())
    assert (code, err) == (0, "")
    assert f"bundle {bundle.version}, policy {bundle.policy_version}" in out
    assert "reference big" in out
    for name in (*bundle.models, *(one.id for one in bundle.certificates)):
        assert name in out


def test_json_is_the_whole_manifest(run: Run, made: Path) -> None:
    code, out, _ = run("bundle", "inspect", made, "--json")
    shown, bundle = json.loads(out), bundles.load(made.read_bytes())
    assert code == 0
    assert shown.pop("version") == bundle.version
    assert shown == json.loads(json.dumps(bundle.manifest))


def test_a_bundle_without_a_certificate_says_where_everything_goes(run: Run, made: Path) -> None:
    bare = replace(bundles.load(made.read_bytes()).contents, certificates=())
    Path("bare.bundle").write_bytes(bundles.dump(bare))
    assert "no certificate: everything goes to the reference" in run("bundle", "inspect", "bare.bundle")[1]


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "there is no file x.bundle"), (b"no", "no headgate bundle")]
)
def test_what_is_no_bundle_is_one_sentence(
    run: Run, made: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        Path("x.bundle").write_bytes(content)
    for command in (("inspect", "x.bundle"), ("diff", made, "x.bundle"), ("diff", "x.bundle", made)):
        code, out, err = run("bundle", *command)
        assert (code, out) == (1, "")
        assert sentence in err
        assert err.count("\n") == 1


def test_equal_bundles_differ_in_nothing(run: Run, made: Path) -> None:
    Path("copy.bundle").write_bytes(made.read_bytes())
    code, out, err = run("bundle", "diff", made, "copy.bundle")
    assert (code, err) == (0, "")
    assert out == f"the same bundle, {bundles.load(made.read_bytes()).version}\n"


def test_each_difference_is_a_line_and_exit_code_1(run: Run, made: Path) -> None:
    contents = bundles.load(made.read_bytes()).contents
    other = replace(contents, policy=replace(contents.policy, caution=0.75), certificates=())
    Path("other.bundle").write_bytes(bundles.dump(other))
    code, out, err = run("bundle", "diff", made, "other.bundle")
    assert (code, err) == (1, "")
    first, *lines = out.splitlines()
    assert first.split(" → ") == [
        bundles.load(path.read_bytes()).version for path in (made, Path("other.bundle"))
    ]
    keys = [line.partition(":")[0] for line in lines]
    assert "policy.caution" in keys
    assert keys == sorted(keys)
    assert {key.split(".")[0] for key in keys} == {"policy", "certificates"}
    assert not [key for key in keys if key.startswith("policy.") and key != "policy.caution"]
