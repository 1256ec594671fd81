"""The first thing a child process runs: tie it to its parent, bound it, then become the work.

Run by path, before anything of Holdfast is imported; standard library only. The parent's id was
taken before the fork, so a parent that died in between is noticed: the death signal is asked for
first and the parent checked afterwards.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
GONE = 125
"""Exit status when the parent was gone before the child could be tied to it."""

LIMITS = {
    "memory_bytes": resource.RLIMIT_AS,
    "data_bytes": resource.RLIMIT_DATA,
    "cpu_seconds": resource.RLIMIT_CPU,
    "files": resource.RLIMIT_NOFILE,
    "file_bytes": resource.RLIMIT_FSIZE,
}


def tie_to_parent(parent: int) -> None:
    """Die when the parent does, even if it was killed; at once if it is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(GONE)


def bound(limits: dict[str, int]) -> None:
    """Set the resource limits; no core files in any case."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in limits.items():
        hard = resource.getrlimit(LIMITS[name])[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # A second more until the hard limit: the soft one can still be told from a plain kill.
        above = most + 1 if name == "cpu_seconds" and hard == resource.RLIM_INFINITY else most
        resource.setrlimit(LIMITS[name], (most, above))


def call(function: str, source: int, target: int) -> None:
    """Call ``module:name`` with the JSON in ``source``; leave the outcome in ``target``.

    What the work prints goes to standard error: standard output is nobody's.
    """
    os.dup2(2, 1)
    import importlib
    import traceback

    answer: dict[str, Any]
    try:
        module, _, name = function.partition(":")
        work = getattr(importlib.import_module(module), name)
        with os.fdopen(source, "rb") as file:
            payload = json.load(file)
        answer = {"value": work(payload)}
        encoded = json.dumps(answer, allow_nan=False).encode()
    except BaseException as error:
        told = _told(error)
        # Where the work itself says what is wrong with its input, no place in our code tells more.
        trace = traceback.format_exc() if told["kind"] in ("internal", "corrupt") else ""
        encoded = json.dumps({"error": told, "trace": trace}).encode()
    with os.fdopen(target, "wb") as file:
        file.write(encoded)


def _told(error: BaseException) -> dict[str, Any]:
    kind = getattr(error, "kind", None)
    if kind is not None and hasattr(error, "detail"):
        known: Any = error
        return {
            "kind": kind.value,
            "code": known.code,
            "detail": known.detail,
            "hint": known.hint,
            "problems": [
                {"path": p.path, "message": p.message, "hint": p.hint, "line": p.line}
                for p in known.problems
            ],
        }
    if isinstance(error, MemoryError):
        return {"kind": "too-large", "code": "child-memory", "detail": "it needs too much memory"}
    return {"kind": "internal", "code": "internal", "detail": repr(error)}


def main(arguments: list[str]) -> None:
    """``PARENT LIMITS exec COMMAND…`` or ``PARENT LIMITS call FUNCTION SOURCE TARGET``."""
    parent, limits, how, *rest = arguments
    tie_to_parent(int(parent))
    bound(json.loads(limits))
    if how == "exec":
        try:
            os.execvp(rest[0], rest)  # noqa: S606 — arguments come from our parent, as a list
        except OSError as error:
            sys.stderr.write(f"cannot run {rest[0]}: {error.strerror}\n")
            os._exit(127)
    call(rest[0], int(rest[1]), int(rest[2]))
    # The answer is written. Native libraries end their threads in any order when the interpreter
    # goes, and one that is late takes the process down with SIGABRT (seen under load).
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
