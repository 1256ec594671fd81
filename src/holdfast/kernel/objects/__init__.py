"""The objects handle: durable, immutable blobs under tenant-keyed names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.kernel.errors import Invalid, Unsupported
from holdfast.kernel.objects.driver import ObjectDriver, Source, StoredObject
from holdfast.kernel.objects.handle import ORPHAN_AGE, Objects
from holdfast.kernel.secrets import TenantSecrets

if TYPE_CHECKING:
    from holdfast.kernel.objects.s3 import S3Credentials

__all__ = ["ORPHAN_AGE", "ObjectDriver", "Objects", "Source", "StoredObject", "open_objects"]

SCHEMES = ("file", "s3")


@asynccontextmanager
async def open_objects(
    url: str, secrets: TenantSecrets, *, s3: S3Credentials | None = None
) -> AsyncIterator[Objects]:
    """The objects in the place that ``url`` names, open until the block ends.

    ``file:///absolute/folder`` or ``s3://bucket/prefix`` (with ``s3``: where it is and who asks).
    ``Invalid`` for another scheme, ``Unavailable`` if the folder cannot be written.
    """
    driver = await _open_driver(url, s3)
    try:
        yield Objects(driver, secrets)
    finally:
        await driver.close()


async def _open_driver(url: str, s3: S3Credentials | None) -> ObjectDriver:
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "file":
        from holdfast.kernel.objects.file import FileObjects

        if not rest.startswith("/"):
            raise Invalid(f"cannot open the objects {url}: write file:///absolute/folder")
        folder = FileObjects(Path(rest))
        await folder.open()
        return folder
    if separator and scheme == "s3":
        try:
            from holdfast.kernel.objects.s3 import S3Credentials, S3Objects
        except ImportError as error:
            raise Unsupported(
                "cannot open the objects in S3: its driver is not installed",
                hint="install holdfast[s3]",
            ) from error
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise Invalid(f"cannot open the objects {url}: write s3://bucket/prefix")
        return S3Objects(bucket, prefix.strip("/"), s3 or S3Credentials())
    raise Invalid(
        f"cannot open the objects: the scheme of {url!r} is not known",
        hint=f"known are {', '.join(f'{known}://' for known in SCHEMES)}",
    )
