"""In CI a skipped test fails the run: a promise that nobody checked is not kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SKIPPED = {
    "marked": "import pytest\n@pytest.mark.skip(reason='why')\ndef test_it(): pass\n",
    "called": "import pytest\ndef test_it(): pytest.skip('why')\n",
    "file": "import pytest\npytest.importorskip('no_such_module')\n",
}
EXPECTED = "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False\n"


def _run(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_one.py").write_text(source + "\ndef test_good(): pass\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(folder),
    ]
    return subprocess.run([*command, *options, str(folder)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", SKIPPED)
def test_a_skip_fails_only_where_none_is_allowed(tmp_path: Path, how: str) -> None:
    lenient, strict = _run(tmp_path, SKIPPED[how]), _run(tmp_path, SKIPPED[how], "--no-skips")
    assert lenient.returncode == (5 if how == "file" else 0), lenient.stdout
    assert strict.returncode != 0
    assert "this run allows no skips" in strict.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    assert _run(tmp_path, EXPECTED, "--no-skips").returncode == 0


def test_every_run_names_its_seed(tmp_path: Path) -> None:
    assert "seed: 7" in _run(tmp_path, EXPECTED, "--seed", "7", "-q").stdout
