"""Of an append whose answer was lost the client says with which ids it is repeated."""

from __future__ import annotations

import re
import socket
import threading

import pytest

from holdfast.client import Client
from holdfast.kernel.errors import OutcomeUnknown


def test_an_append_that_is_lost_says_how_it_is_repeated() -> None:
    taken: list[bytes] = []

    def hang_up(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # it was shut down
            with connection, connection.makefile("rb") as sent:
                head = b"".join(iter(sent.readline, b"\r\n"))
                length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
                taken.append(sent.read(length))

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        hanging_up = threading.Thread(target=hang_up, args=(listening,))
        hanging_up.start()
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with Client(url, token="t") as log, pytest.raises(OutcomeUnknown) as lost:
                log.append("notes/a", "note.added", {"n": 1})
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            hanging_up.join()
    name = lost.value.hint.rpartition("id=")[2]
    assert len(taken) == 3
    assert all(f'"id":"{name}"'.encode() in each for each in taken)
