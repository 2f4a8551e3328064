from __future__ import annotations

from pathlib import Path

import pytest

from headgate.local import kept
from headgate.local.child import StartError


def test_one_stack_at_a_time_keeps_its_jobs_in_a_folder(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    with kept.folder(environ) as where:
        assert where == tmp_path / "headgate" / "jobs"
        assert where.stat().st_mode & 0o077 == 0, "it holds what people asked"
        with pytest.raises(StartError, match=r"another `headgate up` keeps its jobs"), kept.folder(environ):
            pass
    with kept.folder(environ):
        pass


def test_without_a_state_folder_it_is_in_the_home(tmp_path: Path) -> None:
    with kept.folder({"HOME": str(tmp_path)}) as where:
        assert where == tmp_path / ".local" / "state" / "headgate" / "jobs"
