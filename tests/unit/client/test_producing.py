"""The log from a thread: what becomes of each append is told once, and to whoever waits."""

from __future__ import annotations

import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from socketserver import StreamRequestHandler, ThreadingTCPServer
from time import monotonic, sleep
from types import FrameType
from typing import Any, ClassVar

import msgspec
import pytest

from holdfast.client import Answer, Client, HoldfastError, Producer, producing
from holdfast.client.producing import Untold
from holdfast.kernel.errors import Conflict, OutcomeUnknown
from holdfast.kernel.http.problems import document
from holdfast.ledger.model import Appended

PATIENCE_SECONDS = 60
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n"


class Server(ThreadingTCPServer):
    """Something else than a ledger, on loopback."""

    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(handler: type[StreamRequestHandler]) -> Iterator[str]:
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join(PATIENCE_SECONDS)


def saying(answer: Callable[[int], object]) -> type[StreamRequestHandler]:
    """Answers each line of a pipeline, when ``answer`` returns."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(STREAM)
            number = 0
            while size := int(self.rfile.readline() or b"0", 16):
                self.rfile.read(size + 2)
                number += 1
                self.wfile.write(msgspec.json.encode(answer(number)) + b"\n")

    return Handler


def refused(number: int) -> object:
    problem = document(Conflict(f"cannot append number {number}"), instance="", request_id="")
    return {"line": number, "problem": problem}


def send(producer: Producer, number: int) -> Answer:
    return producer.append("ticks/a", "tick.seen", {"n": number})


def test_leaving_a_pipeline_that_nobody_answers_ends() -> None:
    heard: list[BaseException] = []

    def produce(url: str) -> None:
        try:
            with Client(url, timeout_seconds=3) as log, log.pipeline() as producer:
                send(producer, 1)
        except BaseException as error:  # whatever it is, it is looked at below
            heard.append(error)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        waiting = threading.Thread(target=produce, args=(url,), daemon=True)
        waiting.start()
        waiting.join(PATIENCE_SECONDS)
        assert not waiting.is_alive()
    assert isinstance(heard[0], OutcomeUnknown)
    assert "no answer came for 3 s" in heard[0].detail


def test_an_append_that_was_sent_cannot_be_taken_back() -> None:
    let = threading.Event()

    def answer(number: int) -> object:
        let.wait(PATIENCE_SECONDS)
        return {"line": number, "appended": {"events": []}}

    with serving(saying(answer)) as url, Client(url) as log, log.pipeline() as producer:
        sent = send(producer, 1)
        assert not sent.cancel()
        assert not sent.cancelled()
        with pytest.raises(TimeoutError):
            sent.result(0)
        let.set()
        assert sent.result(PATIENCE_SECONDS).events == []


def test_of_two_who_say_what_became_of_an_append_the_first_is_heard() -> None:
    told, lost = Answer(Untold()), Answer(Untold())
    told.settle(Appended(events=[]))
    told.settle(OutcomeUnknown("the pipeline ended"))
    assert told.result().events == []
    lost.settle(OutcomeUnknown("the pipeline ended"))
    lost.settle(Appended(events=[]))
    assert isinstance(lost.exception(), OutcomeUnknown)


def test_refusals_that_nobody_asks_for_do_not_pile_up_and_the_first_is_raised() -> None:
    sent: list[weakref.ref[Answer]] = []

    def unasked(producer: Producer) -> None:
        for number in range(2, 22):
            sent.append(weakref.ref(send(producer, number)))

    def produce(log: Client) -> None:
        with log.pipeline() as producer:
            first = send(producer, 1)
            unasked(producer)
            assert "number 22" in str(send(producer, 22).exception(PATIENCE_SECONDS))
            assert [answer for answer in sent if answer() is not None] == []
            assert "number 1" in str(first.exception(0))

    with (
        serving(saying(refused)) as url,
        Client(url) as log,
        pytest.raises(HoldfastError, match=r"cannot append number 2$"),
    ):
        produce(log)


def test_a_refusal_that_came_after_whoever_asked_had_gone_is_not_lost() -> None:
    let = threading.Event()

    def answer(number: int) -> object:
        let.wait(PATIENCE_SECONDS)
        return refused(number)

    def produce(log: Client) -> None:
        with log.pipeline() as producer:
            kept = send(producer, 1)
            with pytest.raises(TimeoutError):
                kept.result(0)
            let.set()

    with (
        serving(saying(answer)) as url,
        Client(url) as log,
        pytest.raises(HoldfastError, match="cannot append number 1"),
    ):
        produce(log)


def test_following_a_door_that_ends_each_answer_at_once_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.client.sync.FOLLOW_PAUSE_SECONDS", 0.4)
    came: list[float] = []
    entry = {
        "position": 7, "recorded": "2026-11-01T00:00:00Z", "stream": "ticks/a", "version": 1,
        "time": "2026-11-01T00:00:00Z", "id": "0190a000-0000-7000-8000-000000000000",
        "type": "tick.seen", "subject": "a",
    }  # fmt: skip

    class Handler(StreamRequestHandler):
        head: ClassVar = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            came.append(monotonic())
            body = b"" if len(came) < 3 else b"data: " + msgspec.json.encode(entry) + b"\n\n"
            self.wfile.write(self.head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with serving(Handler) as url, Client(url) as log:
        following = log.follow("ticks/a", first=0)
        assert next(following).position == 7
        following.close()
    assert len(came) == 3
    assert min(later - earlier for earlier, later in pairwise(came)) >= 0.2


def test_the_first_refusal_is_the_first_from_however_many_threads_answers_are_let_go() -> None:
    """The loop's thread adds them, callers' threads ask and let go, whenever they like: another one
    goes on after every line."""
    wrong = list[BaseException]()

    def turns(frame: FrameType, event: str, argument: object) -> Any:
        del argument
        if event == "line":
            sleep(0)
        return turns if frame.f_code.co_filename == producing.__file__ else None

    def let_go(mine: list[Answer], untold: Untold, start: threading.Barrier) -> None:
        try:
            start.wait(PATIENCE_SECONDS)
            sys.settrace(turns)
            while mine:
                mine.pop()
                untold.first()
        except BaseException as error:  # a thread's own is not seen otherwise
            wrong.append(error)
        finally:
            sys.settrace(None)

    for _ in range(20):
        untold = Untold()
        answers = [Answer(untold) for _ in range(40)]
        for number, answer in enumerate(answers):
            untold.add(answer, Conflict(f"number {number}"))
        start = threading.Barrier(4)
        threads = [
            threading.Thread(target=let_go, args=(answers[part::4], untold, start))
            for part in range(4)
        ]
        del answers, answer
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert str(untold.first()) == "number 0"
    assert wrong == []
