"""The promises of the object driver's port, on every backend.

The embedded one always runs; S3 runs where the server's wheel is installed, and says so if not.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.kernel.errors import Invalid, NotFound, Unavailable
from holdfast.kernel.ids import TenantId
from holdfast.kernel.objects import Objects, open_objects
from holdfast.kernel.principal import operator
from holdfast.kernel.secrets import TenantSecrets
from tests.support.seaweed import S3Server, s3_server

ONE = operator()
OTHER = operator(TenantId("other"))
SECRETS = TenantSecrets(b"\x01" * 32)
_buckets = itertools.count(1)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["file", "s3"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    if request.param == "file":
        async with open_objects(f"file://{tmp_path}/objects", SECRETS) as handle:
            yield handle
        return
    server: S3Server = request.getfixturevalue("s3")
    bucket = f"test-{next(_buckets)}"
    await make_bucket(server, bucket)
    url = f"s3://{bucket}/some/prefix"
    async with open_objects(url, SECRETS, s3=server.credentials) as handle:
        yield handle


async def make_bucket(server: S3Server, bucket: str) -> None:
    """The one call that the driver itself has no need of: signed by its library."""
    import httpx
    import obstore
    from obstore.store import S3Store

    credentials = server.credentials
    store = S3Store(
        bucket,
        endpoint=credentials.endpoint,
        access_key_id=credentials.access_key_id,
        secret_access_key=credentials.secret_access_key,
        region=credentials.region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    signed = await obstore.sign_async(store, "PUT", "", expires_in=timedelta(minutes=5))
    async with httpx.AsyncClient() as client:
        answer = await client.put(signed)
    assert answer.status_code in (200, 409), answer.text


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def test_what_was_put_is_read(objects: Objects, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    path = tmp_path / "given"
    path.write_bytes(data + b"file")
    assert await objects.put_bytes(ONE, digest(data), data)
    assert await objects.put_file(ONE, digest(data + b"file"), path)
    assert await objects.put_stream(ONE, digest(b"abc"), chunks(b"a", b"", b"bc"))
    assert await objects.put_bytes(ONE, digest(b""), b"")
    assert await objects.read(ONE, digest(data)) == data
    assert await objects.read(ONE, digest(data + b"file")) == data + b"file"
    assert await objects.read(ONE, digest(b"abc")) == b"abc"
    assert await objects.read(ONE, digest(b"")) == b""


async def test_ranges_are_read(objects: Objects) -> None:
    await objects.put_bytes(ONE, digest(b"x"), b"0123456789")
    for start, length, expected in (
        (0, 3, b"012"),
        (3, 4, b"3456"),
        (8, 10, b"89"),
        (7, None, b"789"),
        (10, None, b""),
        (50, 5, b""),
        (4, 0, b""),
    ):
        assert await objects.read(ONE, digest(b"x"), start=start, length=length) == expected
    for start, length in ((-1, None), (0, -1)):
        with pytest.raises(Invalid):
            await objects.read(ONE, digest(b"x"), start=start, length=length)


async def test_reading_streams_in_chunks(objects: Objects) -> None:
    data = b"z" * 3_000_000
    await objects.put_bytes(ONE, digest(data), data)
    sizes = [len(chunk) async for chunk in objects.stream(ONE, digest(data))]
    assert sum(sizes) == len(data)
    assert max(sizes) < len(data)


async def test_a_stream_that_is_left_early_leaks_nothing(objects: Objects) -> None:
    data = b"z" * 3_000_000
    await objects.put_bytes(ONE, digest(data), data)
    stream = objects.stream(ONE, digest(data))
    assert await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]


async def test_what_is_not_there_is_not_found(objects: Objects) -> None:
    with pytest.raises(NotFound):
        await objects.read(ONE, digest(b"none"))
    with pytest.raises(NotFound):
        await objects.read(ONE, digest(b"none"), length=0)
    with pytest.raises(NotFound):
        await objects.head(ONE, digest(b"none"))
    assert not await objects.exists(ONE, digest(b"none"))
    await objects.delete(ONE, digest(b"none"))


async def test_the_first_one_wins_and_repeating_is_harmless(objects: Objects) -> None:
    assert await objects.put_bytes(ONE, digest(b"x"), b"first")
    assert not await objects.put_bytes(ONE, digest(b"x"), b"second")
    assert not await objects.put_stream(ONE, digest(b"x"), chunks(b"third"))
    assert await objects.read(ONE, digest(b"x")) == b"first"


async def test_of_concurrent_puts_exactly_one_is_first(objects: Objects) -> None:
    for round_ in range(5):
        name = digest(b"race %d" % round_)
        answers = await asyncio.gather(
            *(objects.put_bytes(ONE, name, b"%d" % i * 1000) for i in range(12))
        )
        assert sum(answers) == 1
        assert await objects.read(ONE, name) == b"%d" % answers.index(True) * 1000


async def test_a_stream_that_fails_leaves_nothing(objects: Objects) -> None:
    class LostError(Exception):
        pass

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise LostError

    with pytest.raises(LostError):
        await objects.put_stream(ONE, digest(b"x"), failing())
    assert not await objects.exists(ONE, digest(b"x"))
    assert [found async for found in objects.scan(ONE)] == []
    assert await objects.put_bytes(ONE, digest(b"x"), b"then")


async def test_a_put_that_is_cancelled_leaves_all_or_nothing(objects: Objects) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b"x" * 1000

    putting = asyncio.ensure_future(objects.put_stream(ONE, digest(b"x"), endless()))
    await asyncio.sleep(0.05)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert not await objects.exists(ONE, digest(b"x"))


async def test_what_is_deleted_is_gone_and_may_come_again(objects: Objects) -> None:
    await objects.put_bytes(ONE, digest(b"x"), b"first")
    await objects.delete(ONE, digest(b"x"))
    assert not await objects.exists(ONE, digest(b"x"))
    assert await objects.put_bytes(ONE, digest(b"x"), b"second")
    assert await objects.read(ONE, digest(b"x")) == b"second"


async def test_size_and_time_are_known(objects: Objects) -> None:
    await objects.put_bytes(ONE, digest(b"x"), b"12345")
    found = await objects.head(ONE, digest(b"x"))
    assert found.size_bytes == 5
    assert found.name == objects.name(ONE, digest(b"x"))
    assert abs(datetime.now(UTC) - found.stored_at) < timedelta(minutes=5)


async def test_tenants_share_nothing_and_the_list_is_ones_own(objects: Objects) -> None:
    for i in range(30):
        await objects.put_bytes(ONE, digest(b"%d" % i), b"mine")
    await objects.put_bytes(OTHER, digest(b"0"), b"theirs")
    assert await objects.read(ONE, digest(b"0")) == b"mine"
    assert await objects.read(OTHER, digest(b"0")) == b"theirs"
    mine = {found.name async for found in objects.scan(ONE)}
    assert mine == {objects.name(ONE, digest(b"%d" % i)) for i in range(30)}
    assert [found.size_bytes async for found in objects.scan(OTHER)] == [6]


async def test_only_a_digest_is_a_name(objects: Objects) -> None:
    for bad in ("", "sha256:", "md5:" + "0" * 64, "sha256:" + "g" * 64, "../../etc/passwd"):
        with pytest.raises(Invalid):
            await objects.put_bytes(ONE, bad, b"never")


async def test_a_store_that_does_not_answer_is_unavailable(s3: S3Server) -> None:
    from dataclasses import replace

    gone = replace(s3.credentials, endpoint="http://127.0.0.1:1")
    async with open_objects("s3://some-bucket", SECRETS, s3=gone) as objects:
        with pytest.raises(Unavailable):
            await objects.put_bytes(ONE, digest(b"x"), b"x")
    wrong = replace(s3.credentials, secret_access_key="wrong")
    async with open_objects("s3://some-bucket", SECRETS, s3=wrong) as objects:
        with pytest.raises(Unavailable) as caught:
            await objects.exists(ONE, digest(b"x"))
        assert "wrong" not in caught.value.detail
