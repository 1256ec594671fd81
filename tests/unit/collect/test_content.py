"""Pages are decompressed as a stream, whole or not at all, within bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.collect.content import Compression, SpooledContent
from holdfast.collect.errors import BoundReached, ParseFailed
from holdfast.collect.model import Bounds

NOISE = random.Random(1).randbytes(300_000)


def zipped(*names: str, data: bytes = NOISE) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, data)
    return buffer.getvalue()


def read(
    path: Path,
    data: bytes,
    kind: Compression = "auto",
    member: str = "",
    bounds: Bounds | None = None,
) -> bytes:
    path.write_bytes(data)
    with SpooledContent(path, bounds or Bounds(), kind, member).open() as stream:
        return stream.read()


PACKED: list[tuple[Compression, bytes]] = [
    ("none", NOISE),
    ("gzip", gzip.compress(NOISE)),
    ("deflate", zlib.compress(NOISE)),
    ("bzip2", bz2.compress(NOISE)),
    ("zip", zipped("a.csv")),
]


@pytest.mark.parametrize(("kind", "data"), PACKED)
def test_what_was_packed_comes_out(tmp_path: Path, kind: Compression, data: bytes) -> None:
    assert read(tmp_path / "p", data, kind) == NOISE
    assert read(tmp_path / "p", data, "auto") == (data if kind == "deflate" else NOISE)


def test_deflate_comes_with_a_header_and_without(tmp_path: Path) -> None:
    engine = zlib.compressobj(wbits=-15)
    bare = engine.compress(NOISE) + engine.flush()
    assert read(tmp_path / "p", bare, "deflate") == NOISE


@pytest.mark.parametrize(("kind", "data"), PACKED[1:])
def test_a_cut_or_a_flipped_bit_is_an_error(tmp_path: Path, kind: Compression, data: bytes) -> None:
    for end in (0, 1, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(ParseFailed, match=r"cannot decompress|cannot read the archive"):
            read(tmp_path / "p", data[:end], kind)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    with pytest.raises(ParseFailed):
        read(tmp_path / "p", bytes(flipped), kind)


def test_members_that_follow_each_other_are_one_content(tmp_path: Path) -> None:
    data = gzip.compress(b"one,") + gzip.compress(b"") + gzip.compress(b"two") + b"\0" * 50
    assert read(tmp_path / "p", data) == b"one,two"
    with pytest.raises(ParseFailed):
        read(tmp_path / "p", gzip.compress(b"one") + b"rubbish")
    both = bz2.compress(b"one,") + bz2.compress(b"two")
    assert read(tmp_path / "p", both, "bzip2") == b"one,two"


def test_what_follows_a_long_padding_is_content_too(tmp_path: Path) -> None:
    for padding in (1, 64 * 1024, 200_000):
        data = gzip.compress(b"one,") + bytes(padding) + gzip.compress(b"two") + bytes(padding)
        assert read(tmp_path / "p", data) == b"one,two"


@pytest.mark.parametrize("kind", ["gzip", "deflate", "bzip2", "zip"])
def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path, kind: Compression) -> None:
    zeros = bytes(8 * 1024 * 1024)
    packed = {
        "gzip": gzip.compress(zeros),
        "deflate": zlib.compress(zeros),
        "bzip2": bz2.compress(zeros),
        "zip": zipped("a", data=zeros),
    }[kind]
    bounds = replace(Bounds(), ratio_floor_bytes=1024 * 1024)
    with pytest.raises(BoundReached) as caught:
        read(tmp_path / "p", packed, kind, bounds=bounds)
    assert caught.value.bound == "ratio"
    # Below the floor a very regular page is only a very regular page.
    assert read(tmp_path / "p", packed, kind) == zeros


def test_bytes_have_a_bound_after_decompression(tmp_path: Path) -> None:
    bounds = replace(Bounds(), content_bytes_max=len(NOISE) - 1)
    for kind, data in PACKED:
        with pytest.raises(BoundReached) as caught:
            read(tmp_path / "p", data, kind, bounds=bounds)
        assert caught.value.bound == "bytes"
    assert read(tmp_path / "p", NOISE, "none", bounds=replace(bounds, content_bytes_max=len(NOISE)))


def test_one_member_of_an_archive_is_read_by_name_or_glob(tmp_path: Path) -> None:
    data = zipped("data/2020.csv", "readme.txt", "__MACOSX/x", "nameless")
    data = data.replace(b"nameless", b"\0ameless")  # a name ends at the first zero
    assert read(tmp_path / "p", data, "zip", "data/2020.csv") == NOISE
    assert read(tmp_path / "p", data, "zip", "data/*.csv") == NOISE
    for member in ("", "nothing", "*"):
        with pytest.raises(ParseFailed, match="entries match"):
            read(tmp_path / "p", data, "zip", member)


def test_what_is_no_archive_is_an_error(tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04", NOISE):
        with pytest.raises(ParseFailed):
            read(tmp_path / "p", data, "zip")


def test_a_page_can_be_opened_more_than_once_and_leaves_nothing_open(tmp_path: Path) -> None:
    for kind, data in PACKED:
        path = tmp_path / "p"
        path.write_bytes(data)
        content = SpooledContent(path, Bounds(), kind)
        for _ in range(2):
            with content.open() as stream:
                assert stream.read(10) == NOISE[:10]


@pytest.mark.parametrize(
    "method",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
)
def test_a_damaged_archive_is_no_archive_however_it_was_packed(tmp_path: Path, method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.csv", "x,y\n1,2\n" * 500)
    whole = buffer.getvalue()
    refused = 0
    for seed in range(100):
        chance = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            read(tmp_path / "p", bytes(damaged), "zip")
        except ParseFailed:
            refused += 1
    assert refused
