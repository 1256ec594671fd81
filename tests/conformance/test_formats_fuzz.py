"""Formats meet bytes that nobody meant: no crash, no hang, no growth, only rows or refusals."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fuzzing import TARGETS, reads
from tests.support.plugin import installed
from tests.support.soaking import scale

SCALE = scale()
TOKENS = [
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\u",
    b"\\ud800", b"1e999999999", b"-", b"NaN", b"null", b"<", b">", b"</", b"<!--", b"<![CDATA[",
    b"<!DOCTYPE x [", b"<!ENTITY a '&b;'>", b"&a;", b"&#0;", b"\r", b"\n", b'""', b"PK\x03\x04",
    b"\x1f\x8b\x08", b"BZh9", b"9" * 500, b"[" * 200, b"<a>" * 200, b"A" * 5000,
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The format that another package brings is there, too."""
    with installed(tmp_path_factory.mktemp("site")):
        yield


def harmed(data: bytes, rng: random.Random) -> bytes:
    """A few cuts, doublings, flips and insertions."""
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randint(0, 40))
        match rng.randrange(5):
            case 0:
                data = data[:at] + rng.choice(TOKENS) + data[at:]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:at] + data[at:end] * rng.randint(2, 30) + data[end:]
            case 3 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case _:
                data = data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]
    return data


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_seed_is_read(target: str, tmp_path: Path) -> None:
    assert reads(target, tmp_path)(TARGETS[target][1]) > 0


@pytest.mark.soak
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_harmed_bytes_end_in_rows_or_refusals(target: str, tmp_path: Path) -> None:
    read, rng = reads(target, tmp_path), random.Random(f"fuzz/{target}")
    counts = [read(harmed(TARGETS[target][1], rng)) for _ in range(250 * SCALE)]
    assert 0 in counts  # some are refused


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=400), target=st.sampled_from(sorted(TARGETS)))
def test_any_bytes_end_in_rows_or_refusals(data: bytes, target: str, tmp_path: Path) -> None:
    reads(target, tmp_path)(data)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_refusals_leave_nothing_behind(target: str, tmp_path: Path) -> None:
    read, rng = reads(target, tmp_path), random.Random(f"growth/{target}")
    cases = [harmed(TARGETS[target][1], rng) for _ in range(60)]
    for data in cases:
        read(data)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for data in cases:
            read(data)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 400_000
    assert {path.name for path in tmp_path.iterdir()} <= {"page"}


RUNS = 800
"""Of atheris on each format in ``make test``; ``make soak`` multiplies."""
EDGES_MIN = 50
"""Fewer were never covered by that many runs: without instrumentation it is two or three."""


@pytest.mark.soak
@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_fuzzing_led_by_coverage_finds_nothing(target: str) -> None:
    runs = RUNS * SCALE
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz", target, str(runs)],
        capture_output=True, text=True, timeout=300 + runs, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    ended = re.search(r"DONE +cov: ([0-9]+)", done.stderr)
    assert ended is not None, done.stderr[-4000:]
    print(f"\n{target}: {runs} runs, {ended[1]} edges covered")
    assert int(ended[1]) >= EDGES_MIN, "the formats are not instrumented"
