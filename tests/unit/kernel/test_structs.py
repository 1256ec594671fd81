"""Types that several threads decode at once, each case in a process that may die."""

from __future__ import annotations

import subprocess
import sys

import pytest

NESTED = """
import threading
import time

import msgspec

from holdfast.kernel.structs import prepare_structs

begun = threading.Event()


def slowly():
    begun.set()
    time.sleep(0.2)
    return int


class Inner(msgspec.Struct):
    number: "slowly()"


class Outer(msgspec.Struct):
    inner: Inner
    number: int


if PREPARED:
    assert prepare_structs() >= 2
    begun.clear()
value = {"inner": {"number": 1}, "number": 2}
other = threading.Thread(target=msgspec.convert, args=(value, Outer))
other.start()
assert begun.wait(0.0 if PREPARED else 10.0) is not PREPARED
assert msgspec.convert(value, Outer).number == 2
assert msgspec.json.decode(msgspec.json.encode(value), type=Outer).number == 2
other.join()
"""

SERVED = """
import asyncio
import gc
import tempfile

import msgspec

from holdfast.app.compose import open_system
from holdfast.app.settings import ROLES, resolve


def below(base):
    for each in base.__subclasses__():
        yield each
        yield from below(each)


def ready(struct):
    return any(type(part).__name__ == "StructInfo" for part in gc.get_referents(struct))


async def main():
    with tempfile.TemporaryDirectory() as folder:
        settings = resolve({}, {"data_dir": folder, "log_level": "error"})
        async with open_system(settings, ROLES):
            ours = [s for s in below(msgspec.Struct) if s.__module__.startswith("holdfast.")]
            assert len(ours) > 50
            unready = [s for s in ours if not ready(s)]
            assert not unready, unready


asyncio.run(main())
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_prepared_type_can_be_decoded_by_several_threads_at_once() -> None:
    done = run(f"PREPARED = True\n{NESTED}")
    assert done.returncode == 0, done.stderr


def test_a_system_that_is_open_has_every_type_prepared() -> None:
    done = run(SERVED)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="annotations are evaluated differently")
def test_a_type_that_is_not_prepared_is_dangerous() -> None:
    """When this fails, msgspec has been mended, and the preparation can go."""
    assert run(f"PREPARED = False\n{NESTED}").returncode < 0
