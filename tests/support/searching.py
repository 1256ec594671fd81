"""Looking for a text in every file: as it lies there, and unpacked where it is packed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import zstandard

from tests.support.postgres import PostgresServer

_ZSTD = b"\x28\xb5\x2f\xfd"


def places_of(folder: Path, needle: str) -> list[str]:
    """Every file below the folder, logs and write-ahead logs included, that has it."""
    found = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
            if path.is_file() and needle.encode() in unpacked(path):
                found.append(str(path.relative_to(folder)))
    return found


def unpacked(path: Path) -> bytes:
    """The file's bytes, and after them what zstd or Parquet make of them."""
    data = path.read_bytes()
    if data.startswith(_ZSTD):
        data += zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if path.suffix == ".parquet":
        data += repr(pq.read_table(path).to_pylist()).encode()
    return data


@dataclass
class ServerFiles:
    """What a PostgreSQL server has written for one database since this was made: its table files,
    its write-ahead log, its own log. Others' data from before may be in the last two."""

    server: PostgresServer
    oid: int
    log_from: int
    wal_from: int
    wal: bytes = b""
    """What was read of it: a checkpoint may take the segment away."""

    @staticmethod
    async def of(server: PostgresServer, database: str) -> ServerFiles:
        oid = await server.value("SELECT oid FROM pg_database WHERE datname = $1", database)
        assert oid, f"there is no database {database}"
        return ServerFiles(server, oid, (server.folder / "log").stat().st_size, await _end(server))

    async def places_of(self, needle: str) -> list[str]:
        """Where it is: ``base/…`` for a table's file, ``pg_wal`` and ``log``."""
        await self._read_on()
        await self.server.value("CHECKPOINT")
        wanted, data = needle.encode(), self.server.folder / "data"
        found = [f"base/{each}" for each in places_of(data / "base" / str(self.oid), needle)]
        if wanted in self.wal:
            found.append("pg_wal")
        if wanted in (self.server.folder / "log").read_bytes()[self.log_from :]:
            found.append("log")
        return found

    async def _read_on(self) -> None:
        """Read the log up to now. A segment that is used again has older bytes behind."""
        size = int(await self.server.value("SELECT pg_size_bytes(current_setting($1))", _SEGMENT))
        per_file, end = 2**32 // size, await _end(self.server)
        for number in range(self.wal_from // size, end // size + 1):
            name = f"{1:08X}{number // per_file:08X}{number % per_file:08X}"
            segment = (self.server.folder / "data" / "pg_wal" / name).read_bytes()
            self.wal += segment[max(self.wal_from - number * size, 0) : end - number * size]
        self.wal_from = end


_SEGMENT = "wal_segment_size"


async def _end(server: PostgresServer) -> int:
    """Up to where the log is written, and so in its file."""
    return int(await server.value("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint"))
