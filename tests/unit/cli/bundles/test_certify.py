from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.router import bundle as bundles
from tests.planted import planted, write

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Queries that the training has not seen."""
    (tmp_path / "labels").mkdir()
    write(tmp_path / "labels", planted(77, 500))
    return tmp_path / "labels"


def test_new_labels_give_new_certificates_to_the_same_policy(run: Run, made: Path, labels: Path) -> None:
    code, out, err = run(
        "certify", "--bundle", made, "--outcomes", labels, "--out", "b.bundle", "--confidence", 0.9
    )
    assert (code, out) == (0, "")
    old, new = (bundles.load(path.read_bytes()) for path in (made, Path("b.bundle")))
    assert new.policy_version == old.policy_version
    assert {one.data_fingerprint for one in new.certificates} != {
        one.data_fingerprint for one in old.certificates
    }
    assert {round(one.confidence, 6) for one in new.certificates} == {0.9}
    assert "lose quality against always using big" in err
    assert "exchangeable" in err, "what it assumes is said with it"
    assert "About what more labels would buy at a risk target of" in err
    assert "wrote b.bundle" in err


def test_without_out_the_bundle_is_replaced(run: Run, made: Path, labels: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.bundle"
    mine.write_bytes(made.read_bytes())
    assert run("certify", "--bundle", mine, "--outcomes", labels, "--expires", "2099-01-01")[0] == 0
    expires = {one.expires for one in bundles.load(mine.read_bytes()).certificates}
    assert expires == {4_070_908_800.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "mine.bundle"]


def test_a_promise_by_slice_names_the_kinds(run: Run, made: Path, tmp_path: Path) -> None:
    told = planted(79, 900)
    (tmp_path / "kinds").mkdir()
    write(tmp_path / "kinds", told)
    arguments = ("--bundle", made, "--outcomes", tmp_path / "kinds", "--by-slice", "--out", "b.bundle")
    code, _, err = run("certify", *arguments)
    assert code == 1
    assert "has no subject" in err
    queries = tmp_path / "kinds/queries.csv"
    head, *rows = queries.read_text().splitlines()
    kinds = ["name" if '"name' in row or ",name" in row else "sums" for row in rows]
    queries.write_text(
        "\n".join([f"{head},subject", *(f"{row},{kind}" for row, kind in zip(rows, kinds, strict=True))])
    )
    code, _, err = run("certify", *arguments)
    assert code == 0
    assert "of each kind (2 in all)" in err
    assert "the kinds: name, sums" in err
    found = bundles.load(Path("b.bundle").read_bytes()).certificates
    assert {one.slices for one in found} == {("name", "sums")}
    assert all(one.id.startswith("regret-by-slice-") for one in found)


def test_labels_that_support_nothing_leave_the_bundle_as_it_was(run: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    write(tmp_path / "few", planted(78, 30))
    mine = tmp_path / "mine.bundle"
    mine.write_bytes(made.read_bytes())
    code, _, err = run("certify", "--bundle", mine, "--outcomes", tmp_path / "few")
    assert code == 1
    assert "support no certificate" in err
    assert mine.read_bytes() == made.read_bytes()
    assert run("certify", "--bundle", mine, "--outcomes", tmp_path / "few", "--out", "b.bundle")[0] == 0
    assert bundles.load(Path("b.bundle").read_bytes()).certificates == ()


def test_a_net_loss_is_promised_in_other_words(run: Run, made: Path, labels: Path) -> None:
    code, _, err = run(
        "certify", "--bundle", made, "--outcomes", labels, "--out", "b.bundle", "--loss", "net"
    )
    assert code == 0
    found = bundles.load(Path("b.bundle").read_bytes()).certificates
    assert {one.loss for one in found} <= {"net"}
    assert ("the mean quality of" in err) is bool(found)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--bundle": "absent.bundle"}, "there is no file absent.bundle"),
        ({"--bundle": "broken.bundle"}, "no headgate bundle"),
        ({"--outcomes": "absent"}, "there is no file or folder absent"),
        ({"--label": "taste"}, "no column 'taste'"),
    ],
)
def test_a_fault_is_one_sentence_and_the_bundle_stays(
    run: Run, made: Path, labels: Path, tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    (tmp_path / "broken.bundle").write_bytes(b"no bundle")
    (tmp_path / "mine.bundle").write_bytes(made.read_bytes())
    options = {"--bundle": "mine.bundle", "--outcomes": str(labels), **changes}
    code, out, err = run("certify", *(word for pair in options.items() for word in pair))
    assert (code, out) == (1, "")
    assert sentence in err
    assert err.startswith("headgate: ")
    assert err.count("\n") == 1
    assert (tmp_path / "mine.bundle").read_bytes() == made.read_bytes()


def test_labels_of_other_models_are_no_labels_of_these(run: Run, made: Path, tmp_path: Path) -> None:
    write(tmp_path, planted(77, 200).with_models(("tiny", "big")))
    code, _, err = run("certify", "--bundle", made, "--outcomes", tmp_path, "--out", "b.bundle")
    assert code == 1
    assert "'mid'" in err
    assert not Path("b.bundle").exists()
