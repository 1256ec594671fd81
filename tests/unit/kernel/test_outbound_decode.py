"""Content-decoding gives the content, whole, or an error that names the bound."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel.outbound import FetchLimits, ResponseTooLarge, SourceUnavailable
from holdfast.kernel.outbound.decode import RATIO_FREE_BYTES, BodyDecoder

CODINGS = {
    "": lambda data: data,
    "identity": lambda data: data,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "UTF-8": lambda data: data,
    "none": lambda data: data,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
}


def bare_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def decode(coding: str, data: bytes, limits: FetchLimits | None = None, step: int = 7) -> bytes:
    decoder = BodyDecoder(coding, limits or FetchLimits(), "http://a.test/")
    pieces = [
        piece
        for start in range(0, len(data), step)
        for piece in decoder.feed(data[start : start + step])
    ]
    decoder.finish()
    content = b"".join(pieces)
    assert decoder.size_bytes == len(content)
    assert decoder.wire_bytes == len(data)
    return content


@pytest.mark.parametrize("coding", CODINGS)
@settings(deadline=None)
@given(data=st.binary(max_size=3000), step=st.integers(1, 4000))
def test_every_coding_gives_back_the_content(coding: str, data: bytes, step: int) -> None:
    assert decode(coding, CODINGS[coding](data), step=step) == data


def test_deflate_without_its_zlib_header_is_understood() -> None:
    assert decode("deflate", bare_deflate(b"abc" * 100)) == b"abc" * 100


def test_gzip_members_follow_one_another_and_zero_padding_is_passed_over() -> None:
    data = gzip.compress(b"one") + gzip.compress(b"two") + bytes(5)
    assert decode("gzip", data) == b"onetwo"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("cut", [1, 4, 10])
def test_a_coding_that_is_cut_short_is_truncated(coding: str, cut: int) -> None:
    data = CODINGS[coding](bytes(range(256)) * 20)
    with pytest.raises(SourceUnavailable) as failure:
        decode(coding, data[:-cut])
    assert failure.value.code == "truncated"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_data_that_is_not_in_the_announced_coding_is_refused(coding: str) -> None:
    with pytest.raises(SourceUnavailable) as failure:
        decode(coding, b"<html>not compressed</html>")
    assert failure.value.code == "protocol-error"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_garbage_behind_the_end_is_refused(coding: str) -> None:
    with pytest.raises(SourceUnavailable):
        decode(coding, CODINGS[coding](b"abc") + b"garbage")


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "gzip;q=1"])
def test_a_coding_that_was_not_asked_for_is_refused_for_good(coding: str) -> None:
    with pytest.raises(SourceUnavailable) as failure:
        decode(coding, b"x")
    assert not failure.value.retryable


def test_a_bomb_is_noticed_by_its_ratio_long_before_it_has_expanded() -> None:
    data = gzip.compress(bytes(200 * 1024 * 1024), compresslevel=1)
    decoder = BodyDecoder("gzip", FetchLimits(ratio_max=100), "http://a.test/")
    with pytest.raises(ResponseTooLarge) as failure:
        for _ in decoder.feed(data):
            pass
    assert failure.value.bound == "ratio_max"
    assert decoder.size_bytes < 101 * len(data)


def test_a_small_body_may_compress_as_well_as_it_likes() -> None:
    content = bytes(RATIO_FREE_BYTES)
    assert decode("gzip", gzip.compress(content), FetchLimits(ratio_max=2), 4096) == content


def test_the_size_bound_holds_for_what_was_sent_and_for_what_it_contains() -> None:
    limits = FetchLimits(size_bytes_max=1000, ratio_max=10_000)
    assert decode("", bytes(1000), limits) == bytes(1000)
    assert decode("gzip", gzip.compress(bytes(1000)), limits) == bytes(1000)
    for coding, data in (("", bytes(1001)), ("gzip", gzip.compress(bytes(1001)))):
        with pytest.raises(ResponseTooLarge) as failure:
            decode(coding, data, limits)
        assert failure.value.bound == "size_bytes_max"
        assert "1000" in failure.value.detail
