"""What the program itself keeps: the check value of the secret its data was written under."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Column, Connection, Text, select, text

from holdfast.kernel.database import tenant_table
from holdfast.kernel.ids import DEFAULT_TENANT

secret_checks = tenant_table(
    "secret_checks",
    Column("holder", Text, primary_key=True, nullable=False),
    Column("check_value", Text, nullable=False),
)
"""Holder (the role that names and compares by the secret) → what the secret must derive."""


def read_check_value(holder: str) -> Callable[[Connection], str | None]:
    """The check value that the data of ``holder`` carries, if any data was written yet."""

    def unit(conn: Connection) -> str | None:
        found = conn.execute(
            select(secret_checks.c.check_value).where(
                secret_checks.c.tenant == DEFAULT_TENANT, secret_checks.c.holder == holder
            )
        )
        value: str | None = found.scalar_one_or_none()
        return value

    return unit


def read_check_values(prefix: str) -> Callable[[Connection], dict[str, str]]:
    """The check values of every holder that begins so, by what comes after that."""

    def unit(conn: Connection) -> dict[str, str]:
        found = conn.execute(
            select(secret_checks.c.holder, secret_checks.c.check_value).where(
                secret_checks.c.tenant == DEFAULT_TENANT,
                secret_checks.c.holder.startswith(prefix, autoescape=True),
            )
        )
        return {holder.removeprefix(prefix): value for holder, value in found}

    return unit


def write_check_value(holder: str, value: str) -> Callable[[Connection], None]:
    """Keep the check value; the first one written stays."""

    def unit(conn: Connection) -> None:
        conn.execute(
            text(
                "INSERT INTO secret_checks (tenant, holder, check_value) "
                "VALUES (:tenant, :holder, :value) ON CONFLICT DO NOTHING"
            ),
            {"tenant": DEFAULT_TENANT, "holder": holder, "value": value},
        )

    return unit


def replace_check_value(holder: str, value: str) -> Callable[[Connection], None]:
    """Keep this value, also in the place of one that is there."""

    def unit(conn: Connection) -> None:
        conn.execute(
            text(
                "INSERT INTO secret_checks (tenant, holder, check_value) "
                "VALUES (:tenant, :holder, :value) "
                "ON CONFLICT (tenant, holder) DO UPDATE SET check_value = excluded.check_value"
            ),
            {"tenant": DEFAULT_TENANT, "holder": holder, "value": value},
        )

    return unit
