"""What somebody can come in by: their passkeys, and their accounts at providers that are asked."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from holdfast.identity.signin import oauth_store, passkey_store


def other_ways_in(
    conn: Connection, tenant: str, person: str, issuers: Collection[str], besides: str
) -> int:
    """How many there are besides the passkey or account of that id.

    An account counts if whoever keeps it is among ``issuers``, those that the operator names now.
    """
    accounts = oauth_store.count_accounts(conn, tenant, person, besides)
    asked = sum(count for issuer, count in accounts.items() if issuer in issuers)
    return asked + passkey_store.count_passkeys(conn, tenant, person, besides)
