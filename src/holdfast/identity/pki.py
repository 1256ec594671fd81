"""A certificate authority of one's own, and the certificates it makes (guide 3, *TLS*).

For systems without one: ``holdfast pki init`` makes the authority, ``server`` and ``client`` what
roles and workers present, ``renew`` follows before they end. Keys are P-256; certificates are
X.509 v3 with exactly one purpose each (RFC 5280 §4.2.1.12), so that a client's certificate serves
nobody and a server's signs nobody in.

Making a certificate is pure of time, serial and key: they are arguments.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from holdfast.kernel.errors import Corrupt, Invalid

AUTHORITY_DAYS = 3650
LEAF_DAYS = 365
LEAF_DAYS_MAX = 825
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates begin this much before they are made: other clocks are not ours."""

_HOST = re.compile(
    r"(?:\*\.)?(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._@-]{0,62}[A-Za-z0-9])?")

Key = ec.EllipticCurvePrivateKey


class Purpose(StrEnum):
    """What a certificate is for: exactly one thing."""

    SERVER = "server"
    CLIENT = "client"


_USAGE = {
    Purpose.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
    Purpose.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate and the key that signs for it."""

    certificate: x509.Certificate
    key: Key


@dataclass(frozen=True, slots=True)
class Request:
    """What a certificate is to say: whose it is, by which names it is reached, until when."""

    purpose: Purpose
    name: str
    hosts: tuple[str, ...] = ()
    days: int = LEAF_DAYS


def new_key() -> Key:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_authority(name: str, key: Key, *, now: datetime, serial: int) -> x509.Certificate:
    """A self-signed authority that may sign leaves and no further authorities."""
    subject = _subject(name)
    builder = _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS, serial)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def issue(
    authority: Authority,
    request: Request,
    public: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    serial: int,
) -> x509.Certificate:
    """A certificate for ``public``.

    A server's names are all subject alternative names: no client of this century reads the common
    name (RFC 9525 §2). Never outlives the authority. :class:`Invalid` names what is wrong with the
    request, or that the authority has ended.
    """
    _check(authority, request, now)
    issuer = authority.certificate
    days = min(request.days, max(1, (issuer.not_valid_after_utc - now).days))
    builder = _builder(_subject(request.name), issuer.subject, public, now, days, serial)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGE[request.purpose]]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    if request.purpose is Purpose.SERVER:
        names = x509.SubjectAlternativeName([general_name(host) for host in request.hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def request_of(certificate: x509.Certificate) -> Request:
    """What a certificate says, so that its successor can say it again."""
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    purpose = next((p for p, oid in _USAGE.items() if oid in usage), None)
    if purpose is None:
        raise Invalid("cannot renew: the certificate is neither a server's nor a client's")
    hosts: tuple[str, ...] = ()
    if purpose is Purpose.SERVER:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = tuple(str(name.value) for name in names)
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return Request(purpose, common_name(certificate), hosts, max(1, lifetime.days))


def common_name(certificate: x509.Certificate) -> str:
    """The name in the subject; empty if it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def general_name(host: str) -> x509.GeneralName:
    """A host as a certificate names it: an address, or a name in lower case."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    lowered = host.lower().rstrip(".")
    if not _HOST.fullmatch(lowered):
        raise Invalid(f"cannot make a certificate for {host!r}: it is no host name and no address")
    return x509.DNSName(lowered)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, as registrations are bound to it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Key) -> bytes:
    """The private key as text, unencrypted: for a file that only its owner reads."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_certificate(pem: bytes, source: str) -> x509.Certificate:
    """The first certificate of a PEM file; :class:`Corrupt` if there is none."""
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except (ValueError, IndexError) as error:
        raise Corrupt(f"cannot read {source}: it holds no certificate (PEM)") from error


def read_key(pem: bytes, source: str) -> Key:
    """The private key of a PEM file; :class:`Corrupt` if it is no P-256 key without password."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise Corrupt(f"cannot read {source}: it holds no usable private key (PEM)") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Corrupt(f"cannot use {source}: it is no elliptic-curve key")
    return key


def _check(authority: Authority, request: Request, now: datetime) -> None:
    if not 1 <= request.days <= LEAF_DAYS_MAX:
        raise Invalid(
            f"cannot make a certificate for {request.days} days: 1 to {LEAF_DAYS_MAX} are possible"
        )
    if request.purpose is Purpose.SERVER and not request.hosts:
        raise Invalid(
            "cannot make a server's certificate: it needs the names it is reached by",
            hint="--host localhost --host 127.0.0.1 --host holdfast.example.org",
        )
    if authority.certificate.not_valid_after_utc <= now:
        raise Invalid(
            "cannot make a certificate: the authority has ended",
            hint="`holdfast pki init --replace` makes a new one, `pki renew` what it signs",
        )
    if authority.certificate.public_key() != authority.key.public_key():
        raise Corrupt("cannot make a certificate: the authority's key is not its certificate's")


def _subject(name: str) -> x509.Name:
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"cannot make a certificate for the name {name!r}",
            hint="1 to 64 letters, digits, spaces and ._@- between",
        )
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Holdfast"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
    serial: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def hosts_of(values: Sequence[str]) -> tuple[str, ...]:
    """Hosts as given, each once, in their order."""
    return tuple(dict.fromkeys(value.strip() for value in values if value.strip()))
