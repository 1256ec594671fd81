"""Certificates that real TLS accepts for what they are for, and for nothing else."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from holdfast.identity import pki
from holdfast.identity.cli import pki_app
from holdfast.kernel.cli import CommandLine
from holdfast.kernel.errors import Corrupt, Invalid

NOW = datetime.now(UTC).replace(microsecond=0)


def authority(now: datetime = NOW) -> pki.Authority:
    key = pki.new_key()
    return pki.Authority(pki.make_authority("Test", key, now=now, serial=1), key)


def issued(
    signer: pki.Authority, purpose: pki.Purpose, name: str = "it", days: int = 30
) -> tuple[x509.Certificate, pki.Key]:
    key = pki.new_key()
    hosts = ("localhost", "127.0.0.1", "::1") if purpose is pki.Purpose.SERVER else ()
    request = pki.Request(purpose, name, hosts, days)
    return pki.issue(signer, request, key.public_key(), now=NOW, serial=2), key


def files(folder: Path, name: str, made: tuple[x509.Certificate, pki.Key]) -> tuple[str, str]:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_bytes(pki.certificate_pem(made[0]))
    key.write_bytes(pki.key_pem(made[1]))
    return str(certificate), str(key)


def shake(
    folder: Path,
    signer: pki.Authority,
    server: tuple[x509.Certificate, pki.Key],
    client: tuple[x509.Certificate, pki.Key],
    name: str,
) -> bytes:
    """A mutual handshake; what the server read, or the failure of either side."""
    ca = folder / "ca.crt"
    ca.write_bytes(pki.certificate_pem(signer.certificate))
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    serving.verify_mode = ssl.CERT_REQUIRED
    serving.load_cert_chain(*files(folder, "server", server))
    asking = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca))
    asking.load_cert_chain(*files(folder, "client", client))
    near, far = socket.socketpair()
    for each in (near, far):
        each.settimeout(10)
    heard: list[bytes | ssl.SSLError] = []

    def serve() -> None:
        try:
            with serving.wrap_socket(far, server_side=True) as wrapped:
                heard.append(wrapped.recv(5))
                wrapped.send(b"hello")
        except ssl.SSLError as error:
            heard.append(error)
        finally:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with asking.wrap_socket(near, server_hostname=name) as wrapped:
            wrapped.send(b"hello")
            wrapped.recv(5)
    finally:
        near.close()
        thread.join(10)
    found = heard[0]
    if isinstance(found, ssl.SSLError):
        raise found
    return found


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_server_and_a_client_of_one_authority_meet(tmp_path: Path, name: str) -> None:
    signer = authority()
    server, client = issued(signer, pki.Purpose.SERVER), issued(signer, pki.Purpose.CLIENT)
    assert shake(tmp_path, signer, server, client, name) == b"hello"


def test_a_certificate_is_good_for_its_own_purpose_only(tmp_path: Path) -> None:
    signer = authority()
    server, client = issued(signer, pki.Purpose.SERVER), issued(signer, pki.Purpose.CLIENT)
    with pytest.raises(ssl.SSLError):
        shake(tmp_path, signer, server, server, "localhost")
    with pytest.raises(ssl.SSLError):
        shake(tmp_path, signer, client, client, "localhost")


def test_a_name_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    signer = authority()
    server, client = issued(signer, pki.Purpose.SERVER), issued(signer, pki.Purpose.CLIENT)
    with pytest.raises(ssl.SSLError):
        shake(tmp_path, signer, server, client, "elsewhere.example")


def test_a_client_of_another_authority_is_refused(tmp_path: Path) -> None:
    signer = authority()
    server = issued(signer, pki.Purpose.SERVER)
    foreign = issued(authority(), pki.Purpose.CLIENT)
    with pytest.raises(ssl.SSLError):
        shake(tmp_path, signer, server, foreign, "localhost")


def test_a_leaf_signs_nothing() -> None:
    signer = authority()
    certificate, _ = issued(signer, pki.Purpose.SERVER)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (basic.ca, usage.key_cert_sign) == (False, False)
    certificate.verify_directly_issued_by(signer.certificate)


def test_a_leaf_never_outlives_its_authority() -> None:
    old = authority(NOW - timedelta(days=pki.AUTHORITY_DAYS - 10))
    certificate, _ = issued(old, pki.Purpose.CLIENT, days=365)
    assert certificate.not_valid_after_utc <= old.certificate.not_valid_after_utc
    ended = authority(NOW - timedelta(days=pki.AUTHORITY_DAYS + 1))
    with pytest.raises(Invalid, match="authority has ended"):
        issued(ended, pki.Purpose.CLIENT)


@given(st.lists(st.sampled_from(["a.example", "b-1.example.org", "10.0.0.1", "::1"]), min_size=1))
def test_what_a_certificate_says_can_be_said_again(hosts: list[str]) -> None:
    signer = _SIGNER
    wanted = pki.Request(pki.Purpose.SERVER, "gateway", pki.hosts_of(hosts), 30)
    key = pki.new_key()
    made = pki.issue(signer, wanted, key.public_key(), now=NOW, serial=3)
    assert pki.request_of(made) == wanted


_SIGNER = authority()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (pki.Request(pki.Purpose.SERVER, "it"), "needs the names"),
        (pki.Request(pki.Purpose.SERVER, "it", ("a b",)), "no host name"),
        (pki.Request(pki.Purpose.CLIENT, "../it"), "the name"),
        (pki.Request(pki.Purpose.CLIENT, "it", (), 0), "0 days"),
        (pki.Request(pki.Purpose.CLIENT, "it", (), 826), "826 days"),
    ],
)
def test_what_makes_no_certificate_is_said(request_: pki.Request, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        pki.issue(_SIGNER, request_, pki.new_key().public_key(), now=NOW, serial=4)


def test_files_that_hold_no_certificate_or_key_are_corrupt() -> None:
    with pytest.raises(Corrupt):
        pki.read_certificate(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x")
    with pytest.raises(Corrupt):
        pki.read_key(b"nothing", "x")


# --- the command --------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    line = CommandLine(folder, None, "", "", open_here=lambda line: pytest.fail("asks nobody"))
    result = CliRunner().invoke(pki_app, list(arguments), obj=line)
    return result.exit_code, result.output


def test_the_command_makes_and_renews(tmp_path: Path) -> None:
    assert run(tmp_path, "init")[0] == 0
    assert run(tmp_path, "server", "gateway", "--host", "localhost")[0] == 0
    assert run(tmp_path, "client", "drone-1", "--days", "20")[0] == 0
    folder = tmp_path / "pki"
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.glob("*.key")} == dict.fromkeys(
        ("ca.key", "gateway.key", "drone-1.key"), 0o600
    )
    before = {p.name: p.read_bytes() for p in folder.glob("*.crt")}
    status, said = run(tmp_path, "renew")
    after = {p.name: p.read_bytes() for p in folder.glob("*.crt")}
    assert (status, {n for n in before if before[n] != after[n]}) == (0, {"drone-1.crt"})
    assert "gateway" not in said
    key = pki.read_key((folder / "drone-1.key").read_bytes(), "key")
    renewed = pki.read_certificate(after["drone-1.crt"], "certificate")
    assert renewed.public_key() == key.public_key()


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    run(tmp_path, "init")
    before = (tmp_path / "pki" / "ca.key").read_bytes()
    status, said = run(tmp_path, "init")
    assert status != 0
    assert "there already" in said
    assert run(tmp_path, "client", "ca", "--replace")[0] != 0
    assert (tmp_path / "pki" / "ca.key").read_bytes() == before


def test_without_an_authority_the_hint_says_how_to_make_one(tmp_path: Path) -> None:
    status, said = run(tmp_path, "server")
    assert status != 0
    assert "holdfast pki init" in said
