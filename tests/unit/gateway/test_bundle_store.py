"""The last good bundle stays in force."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

import headgate.gateway.bundle_store as module
from headgate.gateway.bundle_store import SHIPPED, BundleStore
from headgate.router.errors import BundleError

FILE = Path(module.__file__).parent / "bundles/builtin.bundle"


@pytest.mark.parametrize("name", SHIPPED)
async def test_shipped_bundles_load_by_name_and_support_certificates(name: str) -> None:
    store = BundleStore()
    found = await store.load(name)
    assert found is store.current is not None
    assert found.certificates


def test_the_text_bundle_has_a_card_and_weighs_little() -> None:
    shipped, card = FILE.with_name("text.bundle"), FILE.with_name("text.md")
    assert shipped.stat().st_size < 12_000_000
    assert "never RouterArena" in card.read_text()


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


@pytest.mark.parametrize("kind", ["two gigabytes", "a pipe", "a folder"])
async def test_what_can_be_no_bundle_is_not_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "mine.bundle"
    if kind == "two gigabytes":
        file.touch()
        os.truncate(file, 2 << 30)
    elif kind == "a pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    async with asyncio.timeout(5):
        with pytest.raises(BundleError, match=r"mine\.bundle: this is no headgate bundle"):
            await BundleStore().load(str(file))


async def test_what_can_be_no_path_is_one_sentence() -> None:
    with pytest.raises(BundleError, match=r"policy\.bundle: give the path"):
        await BundleStore().load("mine\0.bundle")
