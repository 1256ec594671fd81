"""Types that several threads decode at once, each case in a process that may die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.kernel.errors import Problem
from holdfast.kernel.http.paging import Page
from holdfast.kernel.structs import decoder

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


EVERY_MODULE = """
import gc
import importlib
import pkgutil
import threading

import holdfast

modules = [m.name for m in pkgutil.walk_packages(holdfast.__path__, "holdfast.")]
modules = [name for name in modules if ".migrations." not in name]
imported = threading.Thread(target=lambda: [importlib.import_module(name) for name in modules])
imported.start()
imported.join()

import msgspec


def below(base):
    for each in base.__subclasses__():
        yield each
        yield from below(each)


def ready(struct):
    return any(type(part).__name__ == "StructInfo" for part in gc.get_referents(struct))


ours = {s for s in below(msgspec.Struct) if s.__module__.startswith("holdfast.")}
assert len(ours) > 150, len(ours)
unready = [s for s in ours if not ready(s)]
assert not unready, unready
"""

LATE_MODULE = """
import threading
import time

import msgspec

looked_at = []


def slowly():
    looked_at.append(threading.get_ident())
    time.sleep(0.05)
    return int


class Inner(msgspec.Struct):
    number: "slowly()"


class Outer(msgspec.Struct):
    inner: Inner
    number: int

    class Nested(msgspec.Struct):
        number: "slowly()"
"""

LATE = """
import sys
import threading

import holdfast

holdfast.__path__.append(FOLDER)
if not HOOKED:
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "PreparingFinder"]
together = threading.Barrier(4)
failed = []


def use():
    try:
        together.wait(10)
        import msgspec

        from holdfast.late import Outer

        for _ in range(100):
            value = {"inner": {"number": 1}, "number": 2}
            assert msgspec.convert(value, Outer).inner.number == 1
    except BaseException as error:
        failed.append(error)


users = [threading.Thread(target=use) for _ in range(4)]
for user in users:
    user.start()
for user in users:
    user.join()
assert not failed, failed
import msgspec

from holdfast import late

assert len(set(late.looked_at)) == 1, "prepared by whoever imported it, alone"
seen = len(late.looked_at)
msgspec.convert({"number": 1}, late.Outer.Nested)
assert len(late.looked_at) == seen, "a type inside another was prepared as well"
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


def test_every_type_of_ours_is_prepared_when_its_module_is_imported() -> None:
    """By any thread, at any time, and with nobody calling anything."""
    done = run(EVERY_MODULE)
    assert done.returncode == 0, done.stderr


def late(folder: Path, *, hooked: bool) -> subprocess.CompletedProcess[str]:
    (folder / "late.py").write_text(LATE_MODULE)
    return run(f"HOOKED = {hooked}\nFOLDER = {str(folder)!r}\n{LATE}")


def test_a_module_imported_late_by_several_threads_is_safe_to_use(tmp_path: Path) -> None:
    done = late(tmp_path, hooked=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="annotations are evaluated differently")
def test_without_the_preparation_at_import_that_goes_wrong(tmp_path: Path) -> None:
    assert late(tmp_path, hooked=False).returncode != 0


def test_a_type_put_together_at_its_use_is_prepared_once() -> None:
    assert decoder(Page[Problem]) is decoder(Page[Problem])


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="annotations are evaluated differently")
def test_a_type_that_is_not_prepared_is_dangerous() -> None:
    """When this fails, msgspec has been mended, and the preparation can go."""
    assert run(f"PREPARED = False\n{NESTED}").returncode < 0
