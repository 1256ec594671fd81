"""Stands between a client and a server on Unix sockets, and can cut the line at a chosen word."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

_SOCKET = ".s.PGSQL.5432"


class CuttingProxy:
    """Passes bytes on; when ``word`` is about to go to the server, cuts the connection.

    ``before``: the server never sees it. Otherwise the server gets it and answers, and the answer
    is lost on its way back.
    """

    def __init__(self) -> None:
        self.word: bytes | None = None
        self.before = True
        self.cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(str(self._server))
        except OSError:
            writer.close()
            return
        muted = asyncio.Event()

        async def answers() -> None:
            while data := await up_reader.read(65536):
                if muted.is_set():
                    return
                writer.write(data)
                await writer.drain()
            writer.close()

        back = asyncio.ensure_future(answers())
        try:
            while data := await reader.read(65536):
                if self.word is not None and self.word in data:
                    self.cuts += 1
                    if not self.before:
                        muted.set()
                        up_writer.write(data)
                        await up_writer.drain()
                        # The server's answer ends the other direction: it has done the work.
                        await asyncio.wait_for(back, 10)
                    return
                up_writer.write(data)
                await up_writer.drain()
        except ConnectionError:
            return
        finally:
            back.cancel()
            for end in (up_writer, writer):
                end.close()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await back

    @contextlib.asynccontextmanager
    async def between(self, server: Path, folder: Path) -> AsyncIterator[Path]:
        """Listen in ``folder`` for the server whose socket is in the folder ``server``."""
        self._server = server / _SOCKET
        listening = await asyncio.start_unix_server(self.serve, str(folder / _SOCKET))
        async with listening:
            yield folder
