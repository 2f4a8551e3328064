"""The last good bundle stays in force."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import headgate.gateway.bundle_store as module
from headgate.gateway.bundle_store import BUILTIN, BundleStore
from headgate.router.errors import BundleError

FILE = Path(module.__file__).parent / "bundles/builtin.bundle"


async def test_the_built_in_bundle_loads() -> None:
    store = BundleStore()
    assert await store.load(BUILTIN) is store.current is not None


@pytest.mark.parametrize("spoil", ["truncate", "flip", "delete"])
async def test_a_bad_file_is_refused_by_name_and_changes_nothing(tmp_path: Path, spoil: str) -> None:
    file = tmp_path / "mine.bundle"
    shutil.copy(FILE, file)
    store = BundleStore()
    good = await store.load(str(file))
    data = bytearray(file.read_bytes())
    if spoil == "truncate":
        file.write_bytes(data[: len(data) // 2])
    elif spoil == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    with pytest.raises(BundleError, match=r"mine\.bundle"):
        await store.load(str(file))
    assert store.current is good
