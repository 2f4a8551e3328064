"""Every page is true to the tree: links lead somewhere, words are the glossary's, no machine is named."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*$", re.MULTILINE)

# Brackets keep a pattern from finding itself.
MACHINES = {
    "a folder of a machine": r"(?<![\w.<{$])/(wor[k]/|ho[m]e/\w+|roo[t]/|User[s]/\w+|opt/(py[p]i|whee[l]s))",
    "a package index": r"--(extra-)?index-ur[l]|--find-link[s]|--trusted-hos[t]|find-links *=|/simpl[e]/",
}
# One word per idea: docs/glossary.md has the reasons.
BANNED = {
    r"\btiers?\b": "model",
    r"\b(weak|strong|cheap|expensive)[ /_](model|llm)s?\b": "small, large, cheaper, dearer",
    r"\bfail[- ]?overs?\b": "fallback",
    r"\bcut-?offs?\b(?! *=)": "threshold, λ",
    r"\bdeferrals?\b": "escalation",
    r"\bthrottl(e|ed|ing)\b": "shed",
    r"\bconfidence scores?\b": "p_correct",
    r"\bcelery workers?\b": "job runner",
    r"\brouter service process\b": "gateway",
    r"\bmicro-?dollars?\b": "nano-dollars",
    r"\bcustomers?\b": "tenant",
}
FOREIGN = (
    "protos/third_party/",
    "docs/glossary.md",
    "tests/contract/test_documents.py",
    "requirements/",
    "LICENSE",
)


def _tracked(*suffixes: str) -> list[Path]:
    # The checkout may belong to somebody else, as in a container.
    listing = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        told = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.fail(
            "these tests read what git tracks: run them in a clone, with git installed", pytrace=False
        )
    paths = [ROOT / name for name in told.split("\0") if name]
    return sorted(path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes))


PAGES = _tracked(".md")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _text(path: Path) -> str:
    """The file's text; empty for data."""
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    targets = [target for target in LINK.findall(prose) if not re.match(r"[a-z]+:", target)]
    assert not [target for target in targets if not _leads_somewhere(page, target)]


def _leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = unquote(target).partition("#")
    place = (page.parent / path) if path else page
    if not place.exists():
        return False
    return not anchor or place.suffix != ".md" or anchor in _anchors(place)


def _anchors(page: Path) -> set[str]:
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("what", MACHINES)
def test_no_file_names_a_machine(what: str) -> None:
    found = [_name(path) for path in _tracked() if re.search(MACHINES[what], _text(path))]
    assert not found


@pytest.mark.parametrize("pattern", BANNED)
def test_one_word_per_idea(pattern: str) -> None:
    found = [
        f"{_name(path)}:{number}: say {BANNED[pattern]}"
        for path in _tracked(".py", ".proto", ".md", ".yaml", ".yml", ".toml")
        if not _name(path).startswith(FOREIGN)
        for number, line in enumerate(_text(path).splitlines(), 1)
        if re.search(pattern, line, re.IGNORECASE)
    ]
    assert not found


def test_the_readme_and_ci_give_the_same_test_command() -> None:
    assert "make test" in (ROOT / "README.md").read_text()
    commands = [
        line for line in (ROOT / ".ci/run").read_text().splitlines() if "make" in line and line[0] != "#"
    ]
    assert commands == ["CI=1 make test"]


def test_the_architecture_fits_on_a_few_screens() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("record", sorted((ROOT / "docs/adr").glob("*.md")), ids=_name)
def test_decision_records_stay_short(record: Path) -> None:
    text = record.read_text()
    assert len(text.splitlines()) <= 40
    assert re.match(r"# \d{4}: ", text)
    assert record.name.startswith(text[2:6])
