"""From when on somebody erased is told to be unrecoverable: the longest of what keeps bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.app.keys import unrecoverable_days
from holdfast.app.settings import resolve

POSTGRES = {"HOLDFAST_DATABASE_URL": "postgresql://somebody@elsewhere/holdfast"}
APART = {"HOLDFAST_KEYRING_URL": "postgresql://somebody@elsewhere/keys"}
FILE = {"HOLDFAST_KEYRING_URL": "sqlite:////somewhere/keyring.db"}


@pytest.mark.parametrize(
    ("environment", "copies", "log", "days"),
    [
        ({}, 3, 9, 3),
        (POSTGRES, 3, 9, 9),
        (POSTGRES, 9, 3, 9),
        (APART, 3, 9, 9),
        (POSTGRES | FILE, 3, 9, 3),
    ],
)
def test_the_log_of_a_server_counts_where_the_keyring_is_on_one(
    environment: dict[str, str], copies: int, log: int, days: int, tmp_path: Path
) -> None:
    given = {"HOLDFAST_KEYRING_BACKUP_DAYS": str(copies), "HOLDFAST_KEYRING_WAL_DAYS": str(log)}
    found = resolve(environment | given, {"data_dir": str(tmp_path)})
    assert unrecoverable_days(found) == days
    assert unrecoverable_days(resolve(environment, {"data_dir": str(tmp_path)})) == 7
