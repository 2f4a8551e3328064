"""Callers can look up every reason they may meet: the page of errors and the code's table are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headgate.adapters import status_map

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", re.MULTILINE)
PAGE = set(ROW.findall((ROOT / "docs/errors.md").read_text()))
CODE = {(reason, code.name) for code, reason in status_map.TABLE.values()} | {("INTERNAL", "INTERNAL")}


@pytest.mark.parametrize("row", sorted(CODE | PAGE), ids=lambda row: row[0])
def test_the_page_says_what_the_code_does(row: tuple[str, str]) -> None:
    assert row in CODE, "the page names a reason that no code gives"
    assert row in PAGE, "the page lacks this reason"
