"""Backups over HTTP: begin one, and ask how far it is."""

from __future__ import annotations

from typing import Any

from holdfast.app.backup.create import Backup, BackupService
from holdfast.kernel.http import get, post
from holdfast.kernel.principal import Permission, Principal, operators_only


def handlers(service: BackupService) -> list[Any]:
    """The routes."""

    @post("/v1/backups", permission=Permission.BACKUPS_WRITE, status=202)
    async def start(principal: Principal, damaged_ledger: bool = False) -> Backup:
        """Begin a backup of this process's state and keys into its backup folders.

        Of a ledger that is damaged there is none, unless ``damaged_ledger`` says so.
        """
        operators_only(principal, "back up every tenant")
        return await service.start(principal, damaged_ledger=damaged_ledger)

    @get("/v1/backups/{backup_id:str}", permission=Permission.BACKUPS_WRITE)
    async def show(principal: Principal, backup_id: str) -> Backup:
        """How far a backup is, and where its files are."""
        operators_only(principal, "see backups of every tenant")
        return await service.show(backup_id)

    return [start, show]
