"""Each promise notices the fault that it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.fault for mutant in MUTANTS])
def test_a_planted_fault_breaks_its_promise(mutant: Mutant, tmp_path: Path) -> None:
    ended = mutant.promise_kept(tmp_path)
    assert ended.returncode == 1, f"nobody noticed: {ended.stdout}{ended.stderr}"
    assert mutant.symptom in ended.stdout, f"it failed for another reason: {ended.stdout}{ended.stderr}"
