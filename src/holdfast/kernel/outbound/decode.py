"""Content-decoding as a stream, bounded: a compressed body never grows past what was agreed.

The decoder is given its output limit at each step, so a bomb is noticed while a quarter of a
mebibyte of it is in memory, and the bound that it hit is named.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from holdfast.kernel.outbound.model import FetchLimits, ResponseTooLarge, SourceUnavailable

ACCEPT_ENCODING = "gzip, deflate"
RATIO_FREE_BYTES = 1024 * 1024
"""The ratio counts only beyond this much output: tiny bodies compress absurdly well."""
_NO_CODINGS = frozenset({"identity", "none", "utf-8", "utf8", "binary", "7bit", "8bit"})
"""What servers write who take the header for another: none of them is a coding of content."""
_STEP = 256 * 1024
_GZIP = 31
_ZLIB = 15
_RAW = -15


class BodyDecoder:
    """Turns the bytes of a body as sent into its content, counting both against the limits."""

    def __init__(self, content_encoding: str, limits: FetchLimits, subject: str) -> None:
        self._limits = limits
        self._subject = subject
        self.wire_bytes = 0
        self.size_bytes = 0
        self._inflate = _inflater(content_encoding, subject)

    def announce(self, wire_bytes: int) -> None:
        """Refuse a body whose announced length is past the bound, before any of it is read."""
        self._check(wire_bytes)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The content that ``data`` brings.

        :class:`ResponseTooLarge` names the bound, once everything within it is given;
        :class:`SourceUnavailable` is a broken coding.
        """
        self.wire_bytes += len(data)
        if self._inflate is None:
            room = self._limits.size_bytes_max - self.size_bytes
            self.size_bytes += min(len(data), room)
            yield data[:room]
            self._check(self.wire_bytes)
            return
        self._check(self.wire_bytes)
        try:
            for piece in self._inflate.feed(data):
                self.size_bytes += len(piece)
                self._check(self.size_bytes)
                self._check_ratio()
                yield piece
        except zlib.error as error:
            raise SourceUnavailable(
                f"cannot decode the body of {self._subject}: {error}", code="protocol-error"
            ) from error

    def finish(self) -> None:
        """The body is over; a coding that is not is ``truncated``."""
        if self._inflate is not None and self.wire_bytes and not self._inflate.complete:
            raise SourceUnavailable(
                f"cannot decode the body of {self._subject}: the compressed data is cut short",
                code="truncated",
            )

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limits.size_bytes_max:
            raise ResponseTooLarge(
                f"cannot keep {self._subject}: it is larger than "
                f"{self._limits.size_bytes_max} bytes (size_bytes_max)",
                bound="size_bytes_max",
            )

    def _check_ratio(self) -> None:
        if (
            self.size_bytes > RATIO_FREE_BYTES
            and self.size_bytes > self._limits.ratio_max * self.wire_bytes
        ):
            raise ResponseTooLarge(
                f"cannot decode {self._subject}: it unpacks to more than "
                f"{self._limits.ratio_max} times its size (ratio_max)",
                bound="ratio_max",
            )


class _Inflater:
    """zlib as a stream with bounded steps; gzip may have several members (RFC 1952 §2.2)."""

    def __init__(self, window: int, *, members: bool) -> None:
        self._window = window
        self._members = members
        self._started = False
        self._stream = zlib.decompressobj(window)
        self.complete = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not self._started and data:
            self._started = True
            if self._window == _ZLIB and data[0] & 0x0F != 8:
                # "deflate" is the zlib format (RFC 9110 §8.4.1.2), but some send it bare.
                self._stream = zlib.decompressobj(_RAW)
        while data:
            if self._stream.eof:
                data = self._next_member(data)
                continue
            piece = self._stream.decompress(data, _STEP)
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            self.complete = self._stream.eof
            if piece:
                yield piece
        while not self._stream.eof:
            # What the step bound held back although the input is used up.
            piece = self._stream.decompress(b"", _STEP)
            self.complete = self._stream.eof
            if not piece:
                return
            yield piece

    def _next_member(self, data: bytes) -> bytes:
        data = data.lstrip(b"\x00")
        if not data:
            return b""
        if not self._members:
            raise zlib.error("data after the end of the compressed stream")
        self._stream = zlib.decompressobj(self._window)
        self.complete = False
        return data


def _inflater(content_encoding: str, subject: str) -> _Inflater | None:
    codings = [part.strip().lower() for part in content_encoding.split(",") if part.strip()]
    codings = [coding for coding in codings if coding not in _NO_CODINGS]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in {"gzip", "x-gzip"}:
        return _Inflater(_GZIP, members=True)
    if len(codings) == 1 and codings[0] == "deflate":
        return _Inflater(_ZLIB, members=False)
    raise SourceUnavailable(
        f"cannot decode the body of {subject}: the content coding {content_encoding!r} "
        f"was not asked for",
        code="protocol-error",
        retryable=False,
    )
