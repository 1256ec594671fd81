"""Backups over HTTP: begin one, and ask how far it is."""

from __future__ import annotations

from typing import Any

from holdfast.app.backup.create import Backup, BackupService
from holdfast.kernel.http import get, post
from holdfast.kernel.principal import Permission, Principal


def handlers(service: BackupService) -> list[Any]:
    """The routes."""

    @post("/v1/backups", permission=Permission.BACKUPS_WRITE, status=202)
    async def start(principal: Principal) -> Backup:
        """Begin a backup of this process's state and keys into its backup folders."""
        return await service.start(principal)

    @get("/v1/backups/{backup_id:str}", permission=Permission.BACKUPS_WRITE)
    async def show(backup_id: str) -> Backup:
        """How far a backup is, and where its files are."""
        return await service.show(backup_id)

    return [start, show]
