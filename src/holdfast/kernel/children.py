"""Child processes that cannot outlive their parent, and bounded work in them.

A child is tied to its parent by the kernel (``PR_SET_PDEATHSIG``), so that ``kill -9`` of the
parent leaves nothing behind; it leads a process group of its own, gets no descriptor and no
variable it was not given, and is stopped within a bound. The tie is to the *thread* that started
the child: start children from the thread that runs the program's event loop.

Linux only, as is the rest of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from holdfast.kernel import child_start
from holdfast.kernel.errors import (
    BY_KIND,
    Exhausted,
    HoldfastError,
    Internal,
    Kind,
    Problem,
    TooLarge,
    Unavailable,
)
from holdfast.kernel.telemetry import get_logger

log = get_logger("children")

STOP_SECONDS = 10.0
KILL_SECONDS = 5.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
KEPT_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV",
)  # fmt: skip

_START = str(Path(child_start.__file__))


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """What a child may use; ``None`` leaves what the parent has.

    ``memory_bytes`` bounds the address space, ``data_bytes`` only what of it is private and
    writable (for programs that reserve far more than they use), ``cpu_seconds`` the processor
    time, ``files`` the open descriptors, ``file_bytes`` the size of any file it writes.
    """

    memory_bytes: int | None = None
    data_bytes: int | None = None
    cpu_seconds: int | None = None
    files: int | None = None
    file_bytes: int | None = None

    def given(self) -> dict[str, int]:
        found = {name: getattr(self, name) for name in child_start.LIMITS}
        return {name: value for name, value in found.items() if value is not None}


class Child:
    """A running child."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._ended = asyncio.Event()
        self._watching = _watch(process.pid, self._reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; ``None`` while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end; the exit status, negative for a signal."""
        await self._ended.wait()
        assert self._process.returncode is not None
        return self._process.returncode

    def signal(self, number: int) -> None:
        """Send a signal to the child and everything it started; nothing if it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def stop(self, seconds: float = STOP_SECONDS) -> int | None:
        """Ask it to end, and end it after ``seconds``; its exit status.

        ``None`` if even that did not end it within five seconds: it hangs inside the kernel.
        """
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self.wait()
        return await self.kill()

    async def kill(self) -> int | None:
        """End it now; see :meth:`stop`."""
        self.signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                return await self.wait()
        except TimeoutError:
            log.error("child does not die", pid=self.pid)  # noqa: TRY400 — nothing more to tell
            return None

    def _reap(self) -> None:
        # It is dead but not yet collected, so its group's number cannot be anybody else's: what
        # it started and left behind goes with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._ended.set()

    def forget(self) -> None:
        """Stop watching."""
        self._watching()


def _watch(pid: int, ended: Any) -> Any:
    """Call ``ended`` on this loop when the process has died; returns how to stop watching."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)
    done = False

    def forget() -> None:
        nonlocal done
        if not done:
            done = True
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def readable() -> None:
        forget()
        ended()

    loop.add_reader(descriptor, readable)
    return forget


@asynccontextmanager
async def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    limits: ChildLimits | None = None,
    stop_seconds: float = STOP_SECONDS,
) -> AsyncIterator[Child]:
    """Run ``command`` while the body runs; afterwards it is stopped within ``stop_seconds``.

    ``env`` is everything it gets; by default what is harmless of ours (no secrets). Standard input
    is empty; ``stdout`` and ``stderr`` are descriptors or ``subprocess.DEVNULL``, by default ours.
    A command that does not exist ends with status 127.
    """
    process = _start(
        ["-I", "-S"], ["exec", *command], env, cwd, limits, stdout=stdout, stderr=stderr
    )
    child = _watched(process)
    try:
        yield child
    finally:
        await _ended(child, stop_seconds)


async def _ended(child: Child, stop_seconds: float) -> None:
    try:
        if child.returncode is None:
            await child.stop(stop_seconds)
    finally:
        # Cancelled in between: it must not live on.
        child.signal(signal.SIGKILL)
        if child.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_SECONDS):
                    await child.wait()
        child.forget()


def _start(
    options: Sequence[str],
    arguments: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    limits: ChildLimits | None,
    **streams: Any,
) -> subprocess.Popen[bytes]:
    bounds = json.dumps((limits or ChildLimits()).given())
    try:
        return subprocess.Popen(
            [sys.executable, *options, _START, str(os.getpid()), bounds, *arguments],
            stdin=subprocess.DEVNULL,
            env=dict(env) if env is not None else harmless_environment(),
            cwd=cwd,
            start_new_session=True,
            close_fds=True,
            **streams,
        )
    except OSError as error:
        raise _not_started(error) from error


def _watched(process: subprocess.Popen[bytes]) -> Child:
    """The child; one that cannot be watched is ended again, or nobody would ever collect it."""
    try:
        return Child(process)
    except OSError as error:
        process.kill()
        process.wait()
        raise _not_started(error) from error


def _not_started(error: OSError) -> Unavailable:
    return Unavailable(f"cannot start a child process: {error.strerror}", code="child-not-started")


def _memory(stack: contextlib.ExitStack, name: str) -> int:
    """A file in memory, closed with the stack."""
    try:
        number = os.memfd_create(name)
    except OSError as error:
        raise _not_started(error) from error
    stack.callback(os.close, number)
    return number


def harmless_environment() -> dict[str, str]:
    """What of our own environment any child may have: where things are, never a secret."""
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}


async def run_child(
    function: str,
    payload: Any,
    *,
    timeout_seconds: float,
    limits: ChildLimits | None = None,
    env: Mapping[str, str] | None = None,
    answer_bytes_max: int = ANSWER_BYTES_MAX,
    descriptors: Sequence[int] = (),
) -> Any:
    """Call ``module:name`` with ``payload`` in a process of its own; what it returns.

    ``payload`` is anything msgspec encodes; the function gets and returns plain JSON data. A kernel
    error it raises is raised here. ``descriptors`` of ours are open in the child, under their
    numbers. :class:`TooLarge` when a bound was hit, naming it;
    :class:`Internal` when it crashed. The process is dead when this returns, whatever happened.
    """
    with contextlib.ExitStack() as stack:
        source, target = _memory(stack, "holdfast-payload"), _memory(stack, "holdfast-answer")
        with open(source, "wb", closefd=False) as file:  # noqa: ASYNC230 — memory
            file.write(msgspec.json.encode(payload))
        os.lseek(source, 0, os.SEEK_SET)
        process = _start(
            ["-P"],
            ["call", function, str(source), str(target)],
            env,
            None,
            limits,
            pass_fds=(source, target, *descriptors),
        )
        child = _watched(process)
        try:
            async with asyncio.timeout(timeout_seconds):
                status = await child.wait()
        except TimeoutError:
            raise TooLarge(
                f"cannot finish: it took longer than {timeout_seconds:g} s", code="child-deadline"
            ) from None
        finally:
            await _ended(child, 0)
        return _outcome(function, status, target, limits, answer_bytes_max)


def _outcome(
    function: str, status: int, target: int, limits: ChildLimits | None, bytes_max: int
) -> Any:
    size = os.fstat(target).st_size
    if status == -signal.SIGXCPU:
        bound = limits.cpu_seconds if limits else None
        raise TooLarge(
            f"cannot finish: it used more than {bound} s of processor time", code="child-cpu"
        )
    if status != 0 or size == 0:
        raise Internal(
            f"cannot finish: {function} ended with status {status}",
            code="child-crashed",
            internal=f"child of {function}: status {status}",
        )
    if size > bytes_max:
        raise TooLarge(f"cannot take the answer: it is over {bytes_max} bytes", code="child-answer")
    answer = msgspec.json.decode(os.pread(target, size, 0))
    if "error" in answer:
        raise _raised(function, answer["error"], answer["trace"])
    return answer["value"]


def _raised(function: str, told: dict[str, Any], trace: str) -> HoldfastError:
    kind = Kind(told["kind"])
    detail = told["detail"]
    if kind is Kind.INTERNAL or told["code"] == "child-memory":
        detail = f"cannot finish: {detail}"
    return BY_KIND[kind](
        detail,
        code=told["code"],
        hint=told.get("hint", ""),
        problems=msgspec.convert(told.get("problems", []), list[Problem]),
        internal=f"in a child that ran {function}: {trace}",
    )


class ChildPool:
    """Bounds how many children run at once and how many calls wait for a place."""

    def __init__(self, children_max: int, waiting_max: int = 64) -> None:
        self._places = asyncio.Semaphore(children_max)
        self._children_max = children_max
        self._waiting_max = waiting_max
        self._waiting = 0

    async def run(self, function: str, payload: Any, **options: Any) -> Any:
        """:func:`run_child` when there is a place; :class:`Exhausted` when too many wait."""
        if self._places.locked() and self._waiting >= self._waiting_max:
            raise Exhausted(
                f"cannot start: {self._children_max} run and {self._waiting} wait",
                code="children-exhausted",
                retry_after_seconds=1,
            )
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            return await run_child(function, payload, **options)
        finally:
            self._places.release()
