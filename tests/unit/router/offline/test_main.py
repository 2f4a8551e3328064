from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.router import bundle as bundles
from headgate.router.offline.__main__ import main
from headgate.router.offline.datasets import Outcomes

Files = tuple[Path, Path, Path]


@pytest.fixture
def files(
    tmp_path: Path,
    make_outcomes: Callable[[int, int], Outcomes],
    write_files: Callable[[Path, Outcomes], Files],
) -> Files:
    return write_files(tmp_path, make_outcomes(4, 1500))


def data(files: Files) -> list[str]:
    return ["--queries", str(files[0]), "--outcomes", str(files[1]), "--seed", "2", "--held-out", "0.2"]


def test_train_then_evaluate(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "new" / "a.bundle", tmp_path / "docs" / "page.md"
    train = ["train", *data(files), "--prices", str(files[2]), "--reference", "big", "--out", str(out)]
    assert main([*train, "--risk-target", "0.1", "--created", "2026-01-02", "--expires", "2027-01-02"]) == 0
    told = capsys.readouterr().err
    assert "660 queries to train, 180 to calibrate, 360 to certify" in told
    assert "wrote" in told
    bundle = bundles.load(out.read_bytes())
    assert bundle.default_risk_target == 0.1
    assert all(c.expires == c.created + 365 * 86_400 for c in bundle.certificates)
    assert main(["evaluate", *data(files), "--bundle", str(out), "--out", str(page), "--redrawn", "3"]) == 0
    text = page.read_text()
    assert f"Bundle `{bundle.version}`" in text
    assert "Measured on 300 queries" in text
    assert "seed 2" in text
    for line in ("| always tiny |", "| oracle |", "## Do the certificates hold?", "APGR"):
        assert line in text
    widths = {
        line.count("|")
        for line in text.split("## Quality and cost")[1].split("APGR")[0].splitlines()
        if "|" in line
    }
    assert len(widths) == 1, "every line of the table has as many cells as its head"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--queries": "absent.csv"}, "there is no file absent.csv"),
        ({"--reference": "huge"}, "the reference 'huge' is not among the models"),
        ({"--models": "tiny"}, "at least two are needed"),
    ],
)
def test_a_fault_is_one_sentence_and_status_1(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], sentence: str
) -> None:
    options = {
        "--queries": str(files[0]),
        "--outcomes": str(files[1]),
        "--prices": str(files[2]),
        "--reference": "big",
        "--out": str(tmp_path / "x.bundle"),
        **changes,
    }
    assert main(["train", *(word for pair in options.items() for word in pair)]) == 1
    (last,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert sentence in last
    assert not (tmp_path / "x.bundle").exists()


@pytest.mark.parametrize("share", ["1", "1.5", "-0.1", "nan"])
def test_a_share_held_out_leaves_something(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *data(files), "--held-out", share, "--bundle", str(tmp_path / "x.bundle")])
    assert ended.value.code == 2
    assert "--held-out: must be a share: 0 or more, and below 1" in capsys.readouterr().err


def test_a_broken_bundle_is_named(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.bundle"
    broken.write_bytes(b"no bundle")
    assert main(["evaluate", *data(files), "--bundle", str(broken)]) == 1
    assert "no headgate bundle" in capsys.readouterr().err
