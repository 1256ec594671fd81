"""Certificates between processes: what a caller presents, and what is seen of the one who calls.

A server's side is in ``kernel.serving`` (:class:`~holdfast.kernel.serving.Tls`). Here are the
client's side, which trusts a named authority and may present a certificate of its own, and the two
facts of a peer's certificate that anything is decided by: the name in its subject, and its
thumbprint (RFC 8705 §3.1).
"""

from __future__ import annotations

import hashlib
import math
import ssl
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NoReturn

from holdfast.kernel.errors import Invalid
from holdfast.kernel.files import check_handed
from holdfast.kernel.telemetry import get_logger

CERTIFICATE = "holdfast.certificate"
"""Key of the scope: the name in the caller's verified certificate, empty where it showed none. Not
there at all where nobody is asked for one."""

TELL_SECONDS = 1.0
"""One failed handshake in so many is logged; all are counted."""

FILES = (
    "a certificate (PEM) and the private key that belongs to it, both readable here; `holdfast pki "
    "server` and `holdfast pki client` make some"
)
PLAIN_DROPPED_BYTES_MAX = 1024 * 1024
"""What of a plain request is read, and dropped, once it is answered."""

log = get_logger("tls")


@dataclass(frozen=True, slots=True)
class Peer:
    """Whose certificate a connection came with; the handshake has verified it."""

    name: str
    thumbprint: str


@lru_cache(maxsize=1024)
def peer_of(der: bytes) -> Peer:
    """The name and the thumbprint of a certificate."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    found = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Peer(str(found[0].value) if found else "", thumbprint_of(der))


def thumbprint_of(der: bytes) -> str:
    """SHA-256 of the certificate, as ``x5t#S256`` writes it."""
    return urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


def peer_in(scope: Mapping[str, Any]) -> Peer | None:
    """The peer of the connection that a request came by; none without a certificate."""
    tls = (scope.get("extensions") or {}).get("tls")
    der = tls.get("peer_certificate_der") if tls else None
    return peer_of(der) if der else None


@cache
def machine_trust() -> ssl.SSLContext:
    """Whom httpx trusts unless told otherwise, read once: each reading is 1 MiB and 40 ms."""
    import httpx

    return httpx.create_ssl_context(trust_env=False)


@cache
def nobody() -> ssl.SSLContext:
    """A context that trusts nobody, for clients that only ever call http:// addresses."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def failure_of(error: BaseException | None) -> ssl.SSLError | None:
    """What TLS said, if that is why ``error`` came; libraries hide it behind one of their own."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, ssl.SSLError):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


class _Handshake(ssl.SSLObject):
    """A server's side of a connection, which tells why its handshake failed.

    The loops drop the alert that would tell the other side, and are silent themselves. So a first
    failure asks for more, which makes a loop send what is ready; whatever comes then ends the
    connection, as the limit on the time of a handshake does.

    Whoever speaks plain HTTP is answered in plain HTTP (``plain_answer``), and then heard for a
    while: to hang up on a request that is still being sent takes the answer with it.
    """

    failed: ssl.SSLError | None = None
    tell: Callable[[ssl.SSLError, bool], None]
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    plain_answer: bytes = b""
    _plain: bool | None = None
    _dropped = 0

    def do_handshake(self) -> None:
        if self.failed is not None:
            self._end(self.failed)
        if self._plain is None and self.incoming.pending:
            came = self.incoming.read()
            self.incoming.write(came)
            # A handshake begins with 22; a method of HTTP with a capital letter.
            self._plain = came[:1].isalpha() and came[:1].isupper()
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.failed = error
            self.tell(error, self._plain is True)
            if self._plain:
                self.outgoing.read()  # an alert, which would stand before the answer
                self.outgoing.write(self.plain_answer)
            raise ssl.SSLWantReadError from error

    def _end(self, failed: ssl.SSLError) -> NoReturn:
        came = len(self.incoming.read()) if self.incoming.pending else 0
        self._dropped += came
        if self._plain and came and self._dropped <= PLAIN_DROPPED_BYTES_MAX:
            raise ssl.SSLWantReadError from failed
        raise failed


class RenewedContext(ssl.SSLContext):
    """A context that can be read anew: each connection begins under the newest reading.

    A context can only be added to: what it trusted once it trusts for good, and it goes on
    resuming sessions of those it had trusted. So each reading is a context of its own, made whole
    by ``read`` before :func:`renew` lets it take the place of the one before; if ``read`` raises,
    that one stays.
    """

    def __new__(cls, protocol: int, read: Callable[[], ssl.SSLContext]) -> RenewedContext:
        """Of the same ``protocol`` as what ``read`` makes."""
        return super().__new__(cls, protocol)

    def __init__(self, protocol: int, read: Callable[[], ssl.SSLContext]) -> None:
        self._read = read
        self._newest = read()
        self.refusals: Counter[str] = Counter()
        """Handshakes of a server that failed, by the code of the reason."""
        self._told_at = -math.inf
        self.plain_answer = b""
        """What a server answers to whoever speaks plain HTTP to it."""

    @property
    def newest(self) -> ssl.SSLContext:
        """The newest reading: the same one until the next."""
        return self._newest

    def reading(self) -> Callable[[], None]:
        """Read anew, and give what takes it; open connections go on as they are."""
        made = self._read()

        def take() -> None:
            self._newest = made

        return take

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any
    ) -> ssl.SSLObject:
        """See :meth:`ssl.SSLContext.wrap_bio`."""
        if self.protocol != ssl.PROTOCOL_TLS_SERVER:
            return self._newest.wrap_bio(incoming, outgoing, *args, **kwargs)
        self._newest.sslobject_class = _Handshake
        made: Any = self._newest.wrap_bio(incoming, outgoing, *args, **kwargs)
        made.tell, made.plain_answer = self._refused, self.plain_answer
        made.incoming, made.outgoing = incoming, outgoing
        return made  # type: ignore[no-any-return]

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """See :meth:`ssl.SSLContext.wrap_socket`."""
        return self._newest.wrap_socket(*args, **kwargs)

    def _refused(self, error: ssl.SSLError, plain: bool) -> None:
        reason = "HTTP_REQUEST" if plain else error.reason or "failed"
        self.refusals[f"tls-{reason.lower().replace('_', '-')}"] += 1
        now = time.monotonic()
        if now >= self._told_at + TELL_SECONDS:  # whoever may ask may also fail, and often
            self._told_at = now
            why = getattr(error, "verify_message", "") or error.reason or str(error)
            why = "plain HTTP at a port that speaks TLS" if plain else why
            log.warning("handshake refused", detail=why, refused=sum(self.refusals.values()))


class ClientTls:
    """How a process calls others over TLS.

    With ``authorities`` it trusts those and nobody else, else whom the machine trusts. There is one
    context for all its clients. After a :func:`renew` new connections present the new certificate
    and trust whom the file names now. What an open one has shown it goes on with: whoever keeps
    connections asks :meth:`presented` as it opens one.
    """

    def __init__(
        self, authorities: Path | None, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        self._authorities = authorities
        self._certificate = certificate
        self._key = key
        self.context = RenewedContext(ssl.PROTOCOL_TLS_CLIENT, self._made)
        self._thumbprint = self._own()

    @property
    def presented(self) -> tuple[ssl.SSLContext, str]:
        """What a connection that begins now begins under, and the thumbprint of the certificate
        that it shows whoever asks for one; empty if there is none."""
        return self.context.newest, self._thumbprint

    def reading(self) -> Callable[[], None]:
        """As :meth:`RenewedContext.reading`; :class:`Invalid` when a file cannot be used."""
        before = self._own()
        take_context = self.context.reading()
        own = self._own()
        if own != before:
            raise Invalid(
                f"cannot use {self._certificate}: it was replaced as it was read", code="tls-files"
            )

        def take() -> None:
            take_context()
            self._thumbprint = own

        return take

    def _made(self) -> ssl.SSLContext:
        named = self._authorities
        try:
            context = ssl.create_default_context(cafile=self._authorities)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            # What httpx would set, on the context that it knows of.
            context.set_alpn_protocols(["http/1.1"])
            named = self._certificate
            if self._certificate is not None:
                if self._key is not None:
                    check_handed(self._key, "the key", tell=False)
                context.load_cert_chain(self._certificate, self._key)
        except (OSError, ValueError, ssl.SSLError) as error:
            raise _unusable(named, error) from error
        return context

    def _own(self) -> str:
        if self._certificate is None:
            return ""
        try:
            return thumbprint_of(_first_certificate(self._certificate))
        except (OSError, ValueError) as error:
            raise _unusable(self._certificate, error) from error


def renew(*contexts: RenewedContext | ClientTls) -> None:
    """Read all of them anew. If one raises, none has changed."""
    for take in [each.reading() for each in contexts]:
        take()


def _unusable(path: Path | None, error: Exception) -> Invalid:
    return Invalid(f"cannot use the TLS file {path}: {error}", code="tls-files", hint=FILES)


def _first_certificate(path: Path) -> bytes:
    text = path.read_text(encoding="ascii")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = text[text.index(begin) : text.index(end) + len(end)]
    return ssl.PEM_cert_to_DER_cert(first)
