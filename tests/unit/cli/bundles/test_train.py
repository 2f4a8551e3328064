from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.router import bundle as bundles
from tests.planted import planted, write

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--reference", "big", "--difficulty", "none")


def test_outcomes_become_a_bundle_with_certificates(made: Path) -> None:
    bundle = bundles.load(made.read_bytes())
    assert set(bundle.models) == {"tiny", "mid", "big"}
    assert bundle.policy.reference == "big"
    assert bundle.default_risk_target == 0.1
    assert bundle.certificates, "the planted world supports some levels"
    assert all(one.expires == one.created + 365 * 86_400 for one in bundle.certificates)
    assert bundle.manifest["notes"]["seed"] == 2
    assert bundle.manifest["notes"]["queries"] == pytest.approx(560, abs=2), "0.8 · 0.7 of a thousand"
    assert max(one.n for one in bundle.certificates) <= 240
    assert [path.name for path in made.parent.iterdir()] == ["a.bundle"], "no half-written file is left"


def test_what_was_done_and_promised_is_told_in_words(run: Run, tmp_path: Path) -> None:
    write(tmp_path, planted(5, 300))
    code, out, err = run("train", "--outcomes", tmp_path, *QUICK, "--risk-target", 0.1, "--out", "x.bundle")
    assert (code, out) == (0, "")
    assert "210 queries to train and calibrate, 90 to certify" in err
    version = bundles.load(Path("x.bundle").read_bytes()).version
    assert f"version {version}" in err
    assert "lose quality against always using big" in err or "No certificate meets" in err


def test_too_few_labels_for_a_certificate_say_how_many_it_takes(run: Run, tmp_path: Path) -> None:
    write(tmp_path, planted(5, 120))
    code, _, err = run("train", "--outcomes", tmp_path, *QUICK, "--risk-target", 0.01, "--out", "x.bundle")
    assert code == 0
    assert "No certificate meets the default risk target 1%" in err.replace("1 %", "1%")
    assert "labelled queries that the training has not seen" in err
    assert not [
        one for one in bundles.load(Path("x.bundle").read_bytes()).certificates if one.risk_target <= 0.01
    ]


def test_nothing_may_be_kept_for_certificates(run: Run, tmp_path: Path) -> None:
    write(tmp_path, planted(5, 120))
    code, _, err = run("train", "--outcomes", tmp_path, *QUICK, "--certify-share", 0, "--out", "x.bundle")
    assert code == 0
    assert "120 queries to train and calibrate, 0 to certify" in err
    assert bundles.load(Path("x.bundle").read_bytes()).certificates == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--outcomes": "absent"}, "there is no file or folder absent"),
        ({"--reference": "huge"}, "no model 'huge'"),
        ({"--prices": "absent.csv"}, "there is no file absent.csv"),
        ({"--label": "taste"}, "no column 'taste'"),
        ({"--difficulty": "absent.npz"}, "there is no file absent.npz"),
        ({"--dataset": "poetry"}, "poetry"),
    ],
)
def test_a_fault_is_one_sentence_and_the_old_bundle_stays(
    run: Run, folder: Path, tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    (tmp_path / "x.bundle").write_bytes(b"the old one")
    options = {"--outcomes": str(folder), **dict(zip(QUICK[::2], QUICK[1::2], strict=True)), **changes}
    options |= {"--out": "x.bundle"}
    code, out, err = run("train", *(word for pair in options.items() for word in pair))
    assert (code, out) == (1, "")
    (told,) = [line for line in err.splitlines() if line.startswith("headgate: ")]
    assert sentence in told
    assert "Traceback" not in err
    assert "unexpected" not in err
    assert (tmp_path / "x.bundle").read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["x.bundle"]


def test_outcomes_that_teach_nothing_are_refused(run: Run, tmp_path: Path) -> None:
    write(tmp_path, planted(5, 10))
    code, _, err = run("train", "--outcomes", tmp_path, *QUICK, "--out", "x.bundle")
    assert code == 1
    assert err == "headgate: 10 queries are too few to learn from; bring 20 or more, better some thousands\n"


@pytest.mark.parametrize("option", ["--held-out", "--certify-share"])
@pytest.mark.parametrize("share", ["1", "1.5", "-0.1", "much"])
def test_a_share_leaves_something(run: Run, folder: Path, option: str, share: str) -> None:
    code, _, err = run("train", "--outcomes", folder, *QUICK, "--out", "x.bundle", option, share)
    assert code == 2
    assert option in err
    assert not Path("x.bundle").exists()
