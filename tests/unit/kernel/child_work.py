"""What children do in the tests: functions for ``run_child`` and parents that get killed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from holdfast.kernel.children import spawn
from holdfast.kernel.errors import Conflict, Problem


def double(payload: dict[str, Any]) -> dict[str, Any]:
    print("this must not become part of the answer")
    return {"twice": payload["number"] * 2}


def environment(payload: Any) -> dict[str, str]:
    return dict(os.environ)


def descriptors(payload: Any) -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except OSError:
            continue
    return found


def refuse(payload: Any) -> None:
    raise Conflict(
        "cannot do it: it is done", code="done-before", problems=[Problem("$.a", "is old")]
    )


def defect(payload: Any) -> None:
    raise ZeroDivisionError("by zero")


def crash(payload: Any) -> None:
    ctypes.string_at(0)


def greedy(payload: Any) -> int:
    return len(bytearray(4 * 1024**3))


def spin(payload: Any) -> None:
    while True:
        pass


def wait(payload: Any) -> None:
    time.sleep(600)


def scatter(path: str) -> None:
    """Start something that would outlive us, and end."""
    process = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(str(process.pid))


def long_answer(size: int) -> str:
    return "x" * size


async def be_parent(directory: Path, depth: int) -> None:
    """Note who we are and hold children: one level less of ourselves, and a plain program."""
    (directory / f"pid-{os.getpid()}").touch()
    async with spawn(["sleep", "600"]) as sleeper:
        (directory / f"pid-{sleeper.pid}").touch()
        if depth:
            arguments = [sys.executable, "-m", "tests.unit.kernel.child_work"]
            async with spawn([*arguments, str(directory), str(depth - 1)]):
                await asyncio.sleep(600)
        await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(be_parent(Path(sys.argv[1]), int(sys.argv[2])))
