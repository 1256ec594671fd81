"""Files of certificates that are read anew: all that belong together, or none."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from holdfast.kernel.errors import Invalid
from holdfast.kernel.serving import Tls
from holdfast.kernel.tls import ClientTls, RenewedContext, renew


def current(context: RenewedContext) -> ssl.SSLContext:
    """What a connection would begin under."""
    server = context.protocol is ssl.PROTOCOL_TLS_SERVER
    return context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=server).context


@pytest.mark.parametrize("broken", ["server.pem", "client.pem", "client.key"])
def test_certificates_are_renewed_together_or_not_at_all(tmp_path: Path, broken: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    def issue() -> None:
        for name in ("server", "client"):
            made = authority.issue_cert(f"{name}@holdfast.test")
            made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
            made.private_key_pem.write_to_path(tmp_path / f"{name}.key")

    issue()
    server = Tls(tmp_path / "server.pem", tmp_path / "server.key").context()
    client = ClientTls(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")

    def held() -> tuple[object, ...]:
        return current(server), *client.presented

    before = held()
    issue()
    (tmp_path / broken).write_text("no certificate")
    for both in ([server, client], [client, server]):
        with pytest.raises(Invalid):
            renew(*both)
        assert held() == before
    issue()
    renew(server, client)
    assert not set(held()) & set(before)
    assert client.presented[0] is current(client.context)
