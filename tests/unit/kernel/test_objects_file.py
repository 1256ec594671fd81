"""What the folder adds to the port: keyed names, flushed folders, a disk that is full."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.kernel.errors import Invalid, Unavailable
from holdfast.kernel.ids import TenantId
from holdfast.kernel.objects import Objects, open_objects
from holdfast.kernel.objects import file as file_module
from holdfast.kernel.principal import operator
from holdfast.kernel.secrets import TenantSecrets

ONE = operator()
OTHER = operator(TenantId("other"))
SECRETS = TenantSecrets(b"\x01" * 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def objects(root: Path) -> AsyncIterator[Objects]:
    async with open_objects(f"file://{root}", SECRETS) as handle:
        yield handle


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


async def test_the_folder_tells_neither_tenants_nor_known_texts(
    objects: Objects, root: Path
) -> None:
    text = b"a text that somebody may look for"
    await objects.put_bytes(ONE, digest(text), b"sealed")
    await objects.put_bytes(OTHER, digest(text), b"sealed")
    found = files(root)
    assert found == {objects.name(ONE, digest(text)), objects.name(OTHER, digest(text))}
    everything = "\n".join(found)
    assert "default" not in everything
    assert "other" not in everything
    assert hashlib.sha256(text).hexdigest() not in everything
    # Under another secret every name is another.
    async with open_objects(f"file://{root}", TenantSecrets(b"\x02" * 32)) as foreign:
        assert not await foreign.exists(ONE, digest(text))


async def test_it_is_flushed_in_the_order_that_survives_a_power_cut(
    objects: Objects, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes before the name, the name's folder before the answer, new folders into theirs."""
    seen: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(*arguments: object, **named: object) -> object:
            what = arguments[0]
            if isinstance(what, int):
                path = str(Path(f"/proc/self/fd/{what}").readlink())
                what = "bytes" if "/.incoming/" in path else str(Path(path).relative_to(root))
            else:
                what = "name"
            seen.append(f"{name} {what}")
            return real(*arguments, **named)

        monkeypatch.setattr(file_module.os, name, watched)

    watch("fsync")
    watch("link")
    await objects.put_bytes(ONE, digest(b"x"), b"data")
    prefix, shard, _ = objects.name(ONE, digest(b"x")).split("/")
    assert seen == [
        "fsync bytes",
        "fsync .",
        f"fsync {prefix}",
        "link name",
        f"fsync {prefix}/{shard}",
    ]
    seen.clear()
    # Also a repetition promises that it is durable.
    assert not await objects.put_bytes(ONE, digest(b"x"), b"data")
    assert seen[-1] == f"fsync {prefix}/{shard}"


async def test_a_disk_that_fails_leaves_no_object_and_no_left_over(
    objects: Objects, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(file_module.os, "fsync", full)
        with pytest.raises(Unavailable, match="No space left"):
            await objects.put_bytes(ONE, digest(b"x"), b"data")
    assert files(root) == set()
    assert await objects.put_bytes(ONE, digest(b"x"), b"data")


async def test_left_overs_of_a_killed_put_are_swept_after_a_day(
    objects: Objects, root: Path
) -> None:
    young, old = root / ".incoming" / "1-young", root / ".incoming" / "1-old"
    for path in (young, old):
        path.write_bytes(b"half")
    two_days_ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(old, (two_days_ago, two_days_ago))
    assert await objects.sweep_leftovers(datetime.now(UTC) - timedelta(days=1)) == 1
    assert files(root) == {".incoming/1-young"}


PUTTER = """
import asyncio, hashlib, os, sys
from holdfast.kernel.objects import open_objects
from holdfast.kernel.principal import operator
from holdfast.kernel.secrets import TenantSecrets
async def main():
    async with open_objects("file://" + sys.argv[1], TenantSecrets(b"\\x01" * 32)) as objects:
        for i in range(1_000_000):
            data = b"%d" % i * 1000
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            await objects.put_bytes(operator(), digest, data)
            os.write(1, b"%d\\n" % i)
asyncio.run(main())
"""


async def test_what_was_answered_before_a_kill_is_whole_after_it(
    objects: Objects, root: Path
) -> None:
    child = subprocess.Popen([sys.executable, "-c", PUTTER, str(root)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(40):
        await asyncio.to_thread(child.stdout.readline)
    child.kill()
    answered = 40 + child.stdout.read().count(b"\n")
    child.stdout.close()
    child.wait()
    for i in range(answered):
        data = b"%d" % i * 1000
        assert await objects.read(ONE, digest(data)) == data
    async for found in objects.scan(ONE):
        assert found.size_bytes >= 1000


async def test_addresses_that_name_no_place_are_refused(tmp_path: Path) -> None:
    for url, words in (
        ("file://relative/path", "absolute"),
        ("gs://bucket", "file://"),
        ("s3://", "bucket"),
        (str(tmp_path), "file://"),
    ):
        with pytest.raises(Invalid) as caught:
            async with open_objects(url, SECRETS):
                pass
        assert words in caught.value.detail + caught.value.hint


async def test_a_place_that_is_no_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable):
        async with open_objects(f"file://{tmp_path}/file/objects", SECRETS):
            pass
